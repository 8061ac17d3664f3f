"""Stops training that diverges, before it costs a sound checkpoint."""

import math
from collections.abc import Callable

import jax

from t5x_lite.training.step import Metrics


class Guard:
  """Watches the metrics of each step for numbers that are not finite.

  Attributes:
    is_sound: whether the last step checked has updated the parameters, and they
      are finite.
    proved_step: the last step whose parameters then had a finite loss; -1 if
      none is known to.
  """

  def __init__(self, max_skipped_steps: int, *, say: Callable[[str], None]):
    """Watches a run that may skip so many steps in a row.

    Args:
      max_skipped_steps: as in Run.
      say: prints a line for the user.
    """
    self._limit, self._say = max_skipped_steps, say
    self._skipped = 0
    self.is_sound, self.proved_step = True, -1

  def check(self, number: int, metrics: Metrics) -> None:
    """Checks the metrics of one step; waits for the step.

    Raises:
      ValueError: the parameters have overflown, or too many steps in a row were
        skipped.
    """
    skipped, norm = jax.device_get(
      (metrics.terms["skipped_steps"].sum, metrics.norms["param_norm"])
    )
    self._skipped = self._skipped + 1 if skipped else 0
    self.is_sound = not skipped and math.isfinite(norm)
    if self.is_sound:
      self.proved_step = number - 1
    advice = (
      "lower the learning rate and go on from an earlier checkpoint, all of "
      "which are sound (Run.warm_start)"
    )
    if not math.isfinite(norm):
      raise ValueError(
        f"training has diverged: at step {number} the norm of the parameters "
        f"is {norm}; {advice}"
      )
    if self._skipped == self._limit:
      raise ValueError(
        f"training has diverged: at step {number} loss or gradient were not "
        f"finite for the {self._limit}th time in a row "
        f"(Run.max_skipped_steps); {advice}"
      )
    if skipped:
      self._say(
        f"step {number}: loss or gradient is not finite; nothing is updated"
      )
