"""Detects spikes of the loss: steps far above those before them."""

import collections
import dataclasses
import statistics
from collections.abc import Iterable
from typing import Annotated

from t5x_lite import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSpike:
  """States when a loss is a spike, and after how many training stops.

  The loss of a step is a spike if it is above the mean of the last `window`
  losses by more than `deviations` times their standard deviation, and by more
  than `least` too. Spikes do not join the window. There are none until it is
  full: in the first steps after a start or a resume, or of a stage of the data.

  Attributes:
    window: how many losses of earlier steps are compared with.
    deviations: how many of their standard deviations are normal.
    least: how many nats are normal, however little the losses vary.
    steps: how many spikes in a row stop training.
  """

  window: Annotated[int, checks.Range(2, 2**31 - 1)] = 100
  deviations: checks.NotNegative = 8.0
  least: checks.NotNegative = 1.0
  steps: checks.Count = 3

  def __post_init__(self):
    checks.fields(self)


class Window:
  """Holds the last losses, and tells whether the next one is a spike."""

  def __init__(self, rule: LossSpike, stage_starts: Iterable[int]):
    """Starts empty.

    Args:
      rule: states what a spike is.
      stage_starts: the first steps of stages of the data, whose losses may lie
        elsewhere.
    """
    self._rule, self._stage_starts = rule, frozenset(stage_starts)
    self._losses = collections.deque(maxlen=rule.window)

  def explain(self, number: int, loss: float) -> str | None:
    """Takes the loss of a step; returns why it is a spike, or None."""
    if number in self._stage_starts:
      self._losses.clear()
    if len(self._losses) == self._rule.window:
      mean = statistics.fmean(self._losses)
      deviation = statistics.pstdev(self._losses, mean)
      above = max(self._rule.deviations * deviation, self._rule.least)
      if loss > mean + above:
        return (
          f"loss {loss:.4g} is a spike: more than {above:.3g} above "
          f"{mean:.4g}, the mean of the {self._rule.window} losses before"
        )
    self._losses.append(loss)
    return None
