"""Puts the outcome of a study into plain words, made from its tests."""

from collections.abc import Mapping
from typing import Any


def sentences(found: Mapping[str, Any]) -> list[str]:
  """Returns what may be said of each measure, the best cell first."""
  lines = []
  for kind, comparisons in found["comparisons"].items():
    means = {
      name: cell["measures"][kind]["mean"]
      for name, cell in found["cells"].items()
    }
    if not means:
      continue
    best = min(means, key=means.get)
    lines.append(
      f"{kind.capitalize()}: {best} has the lowest mean, {means[best]:.3f} bits "
      f"per byte, of {len(means)} cells."
    )
    seen = [one for one in comparisons if one["seen"]]
    for one in sorted(seen, key=lambda one: -abs(one["difference"])):
      lines.append(_difference(kind, one))
    unseen = len(comparisons) - len(seen)
    if unseen:
      lines.append(_unseen(kind, unseen, len(comparisons), found))
  return lines


def _difference(kind, one) -> str:
  better, worse = one["a"], one["b"]
  low, high = one["interval"]
  if one["difference"] > 0:
    better, worse = worse, better
  else:
    low, high = -high, -low
  return (
    f"{kind.capitalize()}: {better} is better than {worse} by "
    f"{abs(one['difference']):.3f} bits per byte (95% interval {low:.3f} to "
    f"{high:.3f}, Holm-corrected p {one['p_holm']:.2g})."
  )


def _unseen(kind, unseen, count, found) -> str:
  line = (
    f"{kind.capitalize()}: of {count} comparisons, {unseen} show no difference"
  )
  power = found["smallest_visible"][kind]
  if power is None:
    return f"{line}: with one seed there is no telling."
  return (
    f"{line} that repeats would show; one test alone sees {power:.3f} bits per "
    "byte with a power of 80%, and less may go unseen."
  )
