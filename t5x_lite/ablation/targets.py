"""Computes the steps that each cell of an objective needs to a target loss."""

from collections.abc import Mapping, Sequence

# (step, held-out loss), in order.
Curve = Sequence[tuple[int, float]]


def steps_to_target(curves: Mapping[str, Curve]) -> tuple[float, dict]:
  """Returns the target loss, and the steps that each cell needs to reach it.

  The target is the highest of the final losses, which all cells reach. Between
  two evaluations, the loss is interpolated linearly.
  """
  target = max(curve[-1][1] for curve in curves.values())
  return target, {name: _first(c, target) for name, c in curves.items()}


def _first(curve, target) -> float:
  """Returns the first step at which a curve reaches a target loss."""
  before = None
  for step, loss in curve:
    if loss <= target:
      if before is None:
        return float(step)
      share = (before[1] - target) / (before[1] - loss)
      return before[0] + share * (step - before[0])
    before = step, loss
  raise AssertionError("no cell ends above the worst of the last losses")
