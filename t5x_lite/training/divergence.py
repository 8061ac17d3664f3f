"""Stops training that diverges, before its last good checkpoint is deleted."""

import collections
import math
from collections.abc import Callable

import jax

from t5x_lite.training.step import Metrics

# Steps that may be in flight before the host waits for the oldest.
_STEPS_AHEAD = 2
_ADVICE = (
  "lower the learning rate, and start again from a checkpoint of before "
  "(Run.warm_start); the newest one may be broken already"
)


class Guard:
  """Checks the metrics of each step for numbers that are not finite.

  Attributes:
    has_updated: whether the last step checked has updated the parameters.
    verified_step: the latest step whose parameters gave a finite loss in the
      next step; -1 if there is none yet.
  """

  def __init__(self, max_skipped_steps: int, *, say: Callable[[str], None]):
    """Starts with no step.

    Args:
      max_skipped_steps: as in Run.
      say: prints a line for the user.
    """
    self._limit, self._say = max_skipped_steps, say
    self._in_flight = collections.deque()
    self._skipped = 0
    self.has_updated, self.verified_step = True, -1

  def watch(self, number: int, metrics: Metrics) -> None:
    """Takes the metrics of a step, and checks those of an earlier one.

    Raises:
      ValueError: the parameters are not finite, or too many steps in a row have
        updated nothing.
    """
    self._in_flight.append((number, metrics))
    if len(self._in_flight) > _STEPS_AHEAD:
      self._check(*self._in_flight.popleft())

  def is_busy(self) -> bool:
    """Returns whether the device is still computing a step watched."""
    return any(not m.norms["param_norm"].is_ready() for _, m in self._in_flight)

  def catch_up(self) -> None:
    """Checks all steps watched so far; raises as `watch` does."""
    while self._in_flight:
      self._check(*self._in_flight.popleft())

  def _check(self, number, metrics):
    skipped, norm = jax.device_get(
      (metrics.terms["skipped_steps"].sum, metrics.norms["param_norm"])
    )
    if not math.isfinite(norm):
      raise ValueError(
        f"training has diverged: at step {number} the norm of the parameters "
        f"is {norm}; {_ADVICE}"
      )
    self.has_updated = not skipped
    if self.has_updated:
      self._skipped, self.verified_step = 0, number - 1
      return
    self._skipped += 1
    if self._skipped == self._limit:
      raise ValueError(
        f"training has diverged: up to step {number} the loss or its gradient "
        f"was not finite in {self._limit} steps in a row "
        f"(Run.max_skipped_steps); {_ADVICE}"
      )
    self._say(f"step {number}: loss or gradient is not finite; update skipped")
