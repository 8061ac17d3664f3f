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
    }
    if means:
      best = found.get("baseline") or min(means, key=means.get)
      lines += _of_measure(kind, means, best, comparisons, found)
  return lines


def _of_measure(kind, means, best, comparisons, found) -> list[str]:
  first = min(means, key=means.get)
  lines = [
    f"{kind.capitalize()}: {first} has the lowest mean, {means[first]:.3f} "
    f"bits per byte, of {len(means)} cells."
  ]
  ahead = [_against(one, best) for one in comparisons if _involves(one, best)]
  seen = sorted((one for one in ahead if one[3]), key=lambda one: one[1])
  for other, difference, interval, _ in seen:
    side = "ahead of" if difference < 0 else "behind"
    low, high = interval if difference > 0 else [-x for x in reversed(interval)]
    lines.append(
      f"{kind.capitalize()}: {best} is {side} {other} by {abs(difference):.3f} "
      f"bits per byte (95% interval {low:.3f} to {high:.3f})."
    )
  unseen = [other for other, *_, is_seen in ahead if not is_seen]
  if unseen:
    lines.append(
      f"{kind.capitalize()}: no difference seen between {best} and "
      f"{_listed(unseen)}."
    )
  if comparisons:
    lines.append(_power(kind, comparisons, found))
  return lines


def _involves(one, name) -> bool:
  return name in (one["a"], one["b"])


def _against(one, name) -> tuple[str, float, list[float], bool]:
  """Returns the other cell, and how much lower (below 0) `name` is."""
  if one["a"] == name:
    return one["b"], one["difference"], one["interval"], one["seen"]
  interval = [-x for x in reversed(one["interval"])]
  return one["a"], -one["difference"], interval, one["seen"]


def _power(kind, comparisons, found) -> str:
  visible = found["smallest_visible"][kind]
  if visible is None:
    return f"{kind.capitalize()}: with one seed there is no telling."
  count = sum(one["seen"] for one in comparisons)
  return (
    f"{kind.capitalize()}: {count} of {len(comparisons)} comparisons show a "
    "difference at 5% after Holm's correction. With "
    f"{len(found['seeds'])} seeds a single test sees {visible:.3f} bits per "
    "byte with a power of 80%; less may go unseen."
  )


def _listed(names: Sequence[str]) -> str:
  *most, last = names
  return f"{', '.join(most)} and {last}" if most else last
