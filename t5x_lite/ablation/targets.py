"""Finds how soon each cell of one objective reached what all of them reach."""

from collections.abc import Mapping, Sequence

# (step, held-out loss), in order.
Curve = Sequence[tuple[int, float]]


def steps_to_target(curves: Mapping[str, Curve]) -> tuple[float, dict]:
  """Returns the target and, for each cell, the steps until it is reached.

  The target is the worst of the last losses: all cells come to it. Between two
  evaluations the loss is taken to fall evenly.
  """
  target = max(curve[-1][1] for curve in curves.values())
  return target, {name: _first(c, target) for name, c in curves.items()}


def _first(curve, target) -> float:
  """Returns the first step at which a curve is at a target or below."""
  before = None
  for step, loss in curve:
    if loss <= target:
      if before is None:
        return float(step)
      share = (before[1] - target) / (before[1] - loss)
      return before[0] + share * (step - before[0])
    before = step, loss
  raise AssertionError("no cell ends above the worst of the last losses")
