"""Training that diverges stops; healthy training goes on."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.data import Data
from t5x_lite.losses import Term
from t5x_lite.optim.optimizers import AdamW
from t5x_lite.training.divergence import Diverged, Guard, Step
from t5x_lite.training.loss_spike import LossSpike
from t5x_lite.training.run import Run
from t5x_lite.training.step import Metrics
from tests import tiny

DATA = Data(task="none", lengths={"inputs": 4}, batch_size=2)
RUN = Run(
  model=tiny.palm(), train=DATA, optimizer=AdamW(learning_rate=1.0),
  total_steps=1000,
)  # fmt: skip
# The losses of 300 steps of a small model: a fall, then noise.
HEALTHY = 2 + 5 * np.exp(-np.arange(300) / 20)
HEALTHY += 0.1 * np.random.default_rng(0).normal(size=300)


def metrics(loss, *, skipped=False, norm=1.0):
  terms = {
    "loss": Term(jnp.float32(4 * loss), jnp.float32(4)),
    "skipped_steps": Term(jnp.float32(skipped), jnp.float32(1)),
  }
  norms = {"param_norm": jnp.float32(norm)}
  return Metrics(terms, norms, jnp.uint32(0), counts={})


def watch(losses, run=RUN):
  """Watches steps of these losses; a loss of NaN is skipped.

  Returns:
    The guard, and what it raised with the number of steps until then.
  """
  said = []
  guard = Guard(run, say=said.append)
  guard.said = said
  for number, loss in enumerate(losses, 1):
    try:
      step = Step(number, metrics(loss, skipped=math.isnan(loss)), {})
      guard.watch(step, f"parameters after {number}")
    except Diverged as error:
      return guard, (number, error)
  try:
    guard.catch_up()
  except Diverged as error:
    return guard, (number, error)
  return guard, None


def test_healthy_losses_do_not_stop_training():
  guard, stopped = watch(HEALTHY)
  assert stopped is None and not guard.said
  assert guard.is_sound and guard.verified_step == 299


def test_a_loss_that_leaps_stops_training_at_its_first_step():
  losses = [*HEALTHY[:250], *HEALTHY[250:] + 2]
  guard, (_, error) = watch(losses)
  assert error.step.number == 251 and error.params is None
  assert "from step 251 to step 253 the loss was a spike in 3" in str(error)
  assert guard.verified_step == 249 and len(guard.said) == 2


@pytest.mark.parametrize(
  ["losses", "reason"],
  [
    ([*HEALTHY[:250], 9, 9, *HEALTHY[252:]], "two spikes pass by"),
    ([*HEALTHY[:250], *HEALTHY[250:] + 0.6], "too small a leap"),
    ([*HEALTHY[:50], *HEALTHY[50:] + 5], "the window is not full"),
    ([*HEALTHY[:200], *(HEALTHY[200:] - 1)], "a fall"),
  ],
)
def test_what_is_no_spike_does_not_stop_training(losses, reason):
  guard, stopped = watch(losses)
  assert stopped is None, reason
  assert guard.is_sound


def test_the_rule_can_be_changed_and_switched_off():
  losses = [*HEALTHY[:250], *HEALTHY[250:] + 2]
  off = dataclasses.replace(RUN, loss_spike=None)
  assert watch(losses, off)[1] is None
  once = dataclasses.replace(RUN, loss_spike=LossSpike(steps=1, window=10))
  _, (_, error) = watch(losses, once)
  assert "from step 251 to step 251" in str(error)


def test_another_stage_of_the_data_may_have_another_loss():
  losses = [*HEALTHY[:250], *HEALTHY[250:] + 2]
  for size, stops in ((250, False), (240, False), (100, True)):
    train = dataclasses.replace(DATA, num_batches=size, next_stage=DATA)
    staged = dataclasses.replace(RUN, train=train)
    assert (watch(losses, staged)[1] is not None) == stops, size


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("before", [0, 1, 5])
def test_parameters_at_the_stop_are_those_before_the_first_skipped_step(
  limit, before
):
  run = dataclasses.replace(RUN, max_skipped_steps=limit)
  losses = [3.0] * before + [math.nan] * limit + [3.0] * 5
  _, (number, error) = watch(losses, run)
  assert error.step.number == before + 1
  # No step later than the last one skipped has been made.
  assert number == before + limit
  assert error.params == f"parameters after {number}"


def test_a_step_that_updates_begins_the_count_anew():
  run = dataclasses.replace(RUN, max_skipped_steps=2)
  guard, stopped = watch([3.0, math.nan, 3.0, math.nan, 3.0], run)
  assert stopped is None and len(guard.said) == 2
  guard, stopped = watch([3.0, math.nan], run)
  assert not guard.is_sound and guard.verified_step == 0


def test_parameters_that_are_not_finite_stop_at_once():
  guard = Guard(RUN, say=print)
  guard.watch(Step(1, metrics(3.0, norm=math.inf), {}), None)
  with pytest.raises(Diverged, match="at step 1 the norm .* is inf"):
    guard.catch_up()


@pytest.mark.parametrize(
  ["settings", "message"],
  [
    ({"window": 1}, r"LossSpike.window \(1\) must be at least 2"),
    ({"steps": 0}, r"LossSpike.steps \(0\) must be at least 1"),
    ({"deviations": -1.0}, r"LossSpike.deviations \(-1.0\) must be"),
    ({"least": math.nan}, r"LossSpike.least \(nan\) must be"),
  ],
)
def test_rules_without_sense_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    LossSpike(**settings)
