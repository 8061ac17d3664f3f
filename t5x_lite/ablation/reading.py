"""Puts the outcome of a study into plain words, made from its tests."""

from collections.abc import Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]


def sentences(found: Found) -> list[str]:
  """Returns what may be said of each measure.

  The best cell, how far the others are behind it, and what the study could not
  tell; all pairs stand in the report's table.
  """
  lines = []
  for kind, comparisons in found["comparisons"].items():
    means = {
      name: cell["measures"][kind]["mean"]
      for name, cell in found["cells"].items()
      if kind in cell["measures"]
    }
    if means:
      lines += _of_measure(kind, means, comparisons, found)
  return lines


def _of_measure(kind, means, comparisons, found) -> list[str]:
  unit, better = (found["measures"][kind][key] for key in ("unit", "better"))
  extreme, most = (min, "lowest") if better == "lower" else (max, "highest")
  first = extreme(means, key=means.get)
  baseline = found.get("baseline")
  best = baseline if baseline in means else first
  title = kind[0].upper() + kind[1:].replace("_", " ")
  if len(means) > 1 and len(set(means.values())) == 1:
    return [f"{title}: all {len(means)} cells have {means[first]:.3f} {unit}."]
  lines = [
    f"{title}: {first} has the {most} mean, {means[first]:.3f} {unit}, of "
    f"{len(means)} cells."
  ]
  ahead = [_against(one, best) for one in comparisons if _involves(one, best)]
  seen = sorted((one for one in ahead if one[3]), key=lambda one: one[1])
  for other, difference, interval, _ in seen:
    side = "ahead of" if (difference < 0) == (better == "lower") else "behind"
    low, high = interval if difference > 0 else [-x for x in reversed(interval)]
    lines.append(
      f"{title}: {best} is {side} {other} by {abs(difference):.3f} {unit} "
      f"(95% interval {low:.3f} to {high:.3f})."
    )
  unseen = [other for other, *_, is_seen in ahead if not is_seen]
  if unseen:
    lines.append(
      f"{title}: no difference seen between {best} and {_listed(unseen)}."
    )
  if comparisons:
    lines.append(f"{title}: {_power(kind, unit, comparisons, found)}")
  return lines


def _involves(one, name) -> bool:
  return name in (one["a"], one["b"])


def _against(one, name) -> tuple[str, float, list[float], bool]:
  """Returns the other cell, and how much higher (above 0) `name` is."""
  if one["a"] == name:
    return one["b"], one["difference"], one["interval"], one["seen"]
  interval = [-x for x in reversed(one["interval"])]
  return one["a"], -one["difference"], interval, one["seen"]


def _power(kind, unit, comparisons, found) -> str:
  visible = found["smallest_visible"][kind]
  if visible is None:
    return "with one seed there is no telling."
  count = sum(one["seen"] for one in comparisons)
  return (
    f"{count} of {len(comparisons)} comparisons show a difference at 5% after "
    f"Holm's correction. With {len(found['seeds'])} seeds a single test sees "
    f"{visible:.3f} {unit} with a power of 80%; less may go unseen."
  )


def _listed(names: Sequence[str]) -> str:
  *most, last = names
  return f"{', '.join(most)} and {last}" if most else last
