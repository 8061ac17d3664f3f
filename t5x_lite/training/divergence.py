"""Stops training that diverges, before its last good checkpoint is deleted."""

import collections
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from t5x_lite.model import Params
from t5x_lite.training import loss_spike
from t5x_lite.training.run import Run
from t5x_lite.training.step import Metrics

# Steps that may be in flight before the host waits for the oldest.
_STEPS_AHEAD = 2
_ADVICE = (
  "lower the learning rate, and start again from an earlier checkpoint "
  "(Run.warm_start); the newest one may be broken already"
)


class Step(NamedTuple):
  """Holds what is known of a step.

  Attributes:
    number: from 1.
    metrics: on the devices.
    batch: this process's rows.
  """

  number: int
  metrics: Metrics
  batch: Mapping[str, np.ndarray]


class Diverged(ValueError):
  """Raised when training stops because it diverges.

  Attributes:
    step: the first of the steps that are the reason.
    params: those of before that step; None where they are not kept.
  """

  def __init__(self, message: str, step: Step, params: Params | None = None):
    super().__init__(f"training has diverged: {message}; {_ADVICE}")
    self.step, self.params = step, params


class Guard:
  """Checks the metrics of each step for numbers that are not finite, or spikes.

  Attributes:
    is_sound: whether the last step checked has updated the parameters, by a
      loss that is no spike.
    verified_step: the latest step whose parameters gave a loss in the next
      step that is finite and no spike; -1 if there is none yet.
  """

  def __init__(self, run: Run, *, say: Callable[[str], None]):
    """Starts with no step.

    Args:
      run: for `max_skipped_steps`, `loss_spike` and the data's stages.
      say: prints a line for the user.
    """
    self._limit, self._rule, self._say = (
      run.max_skipped_steps, run.loss_spike, say,
    )  # fmt: skip
    if self._rule is not None:
      *before, _ = run.train.stages
      sizes = (stage.num_batches for stage in before)
      starts = (1 + size for size in itertools.accumulate(sizes))
      self._window = loss_spike.Window(self._rule, starts)
    self._in_flight = collections.deque()
    self._params: Any = None
    # Of the latest row of steps that changed nothing, and of spikes.
    self._skipped: list[Step] = []
    self._spikes: list[Step] = []
    self.is_sound, self.verified_step = True, -1

  def watch(self, step: Step, params: Params) -> None:
    """Takes a step and the parameters after it, and checks an earlier step.

    Raises:
      Diverged: the parameters are not finite, or too many steps in a row have
        updated nothing or have a loss that is a spike.
    """
    self._in_flight.append(step)
    self._params = params
    # While nothing is updated each step is awaited, so that the parameters are
    # still those of before.
    waits = self._skipped or self._limit <= _STEPS_AHEAD + 1
    self._check_all_but(0 if waits else _STEPS_AHEAD)
    if self._skipped:
      self._check_all_but(0)

  def is_busy(self) -> bool:
    """Returns whether the device is still computing a step watched."""
    norms = (step.metrics.norms["param_norm"] for step in self._in_flight)
    return any(not norm.is_ready() for norm in norms)

  def settle(self) -> None:
    """Waits for the steps in flight, without checking them.

    One process alone may call it: it raises nothing.
    """
    jax.block_until_ready([step.metrics.norms for step in self._in_flight])

  def catch_up(self) -> None:
    """Checks all steps watched so far; raises as `watch` does."""
    self._check_all_but(0)

  def _check_all_but(self, number: int) -> None:
    while len(self._in_flight) > number:
      self._check(self._in_flight.popleft())

  def _check(self, step: Step) -> None:
    skipped, loss, norm = jax.device_get(
      (
        step.metrics.terms["skipped_steps"].sum,
        step.metrics.terms["loss"],
        step.metrics.norms["param_norm"],
      )
    )
    if not math.isfinite(norm):
      message = f"at step {step.number} the norm of the parameters is {norm}"
      raise Diverged(message, step)
    spike = None
    if skipped:
      self._check_skipped(step)
    else:
      self._skipped = []
      if self._rule is not None:
        mean = float(np.sum(loss.sum / np.maximum(loss.weight, 1e-9)))
        spike = self._window.explain(step.number, mean)
    if spike:
      self._check_spike(step, spike)
    elif not skipped:
      self._spikes = []
    self.is_sound = not skipped and not spike
    if self.is_sound:
      self.verified_step = step.number - 1

  def _check_skipped(self, step: Step) -> None:
    self._skipped.append(step)
    if len(self._skipped) == self._limit:
      first = self._skipped[0]
      raise Diverged(
        f"from step {first.number} to step {step.number} the loss or its "
        f"gradient was not finite in {self._limit} steps in a row "
        "(Run.max_skipped_steps)",
        first,
        self._params,
      )
    self._say(
      f"step {step.number}: loss or gradient is not finite; update skipped"
    )

  def _check_spike(self, step: Step, spike: str) -> None:
    self._spikes.append(step)
    if len(self._spikes) == self._rule.steps:
      first = self._spikes[0]
      raise Diverged(
        f"from step {first.number} to step {step.number} the loss was a spike "
        f"in {self._rule.steps} steps in a row (Run.loss_spike): {spike}",
        first,
      )
    self._say(f"step {step.number}: {spike}")
