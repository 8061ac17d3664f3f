"""Defines learning rate schedules: small frozen objects, called with a step.

`schedule(step)` is the learning rate of the update after `step` earlier
updates; the first update is step 0. A step is a number, or an array inside
jit. Warmup starts at 0, as in optax and T5X.

    learning rate
         ______              Cosine: warmup, half a cosine
        /      `.            WSD:    warmup, stable, decay
       /         `.__        Rsqrt:  flat (T5's "warmup"), then 1/sqrt(step)
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import optax

from t5x_lite import checks


class Schedule(Protocol):
  """Maps a step to a learning rate."""

  def __call__(self, step: jax.typing.ArrayLike) -> jax.Array: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
  """Returns the same learning rate at every step."""

  value: checks.NotNegative

  def __post_init__(self):
    checks.fields(self)

  def __call__(self, step):
    return jnp.full_like(step, self.value, dtype=jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearWarmup:
  """Multiplies another schedule by min(1, step / steps)."""

  steps: checks.Count
  schedule: Schedule

  def __post_init__(self):
    checks.fields(self)

  def __call__(self, step):
    ramp = optax.linear_schedule(0.0, 1.0, self.steps)
    return ramp(step) * self.schedule(step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rsqrt:
  """Decays as scale / sqrt(max(step, warmup_steps)).

  With scale 1 and 10,000 steps: 0.01, then 1 / sqrt(step), as in T5 (Raffel et
  al. 2020, arXiv:1910.10683, section 3.1.2) and PaLM (section 5). The rate is
  constant during "warmup"; for a linear ramp, wrap it in `LinearWarmup`.
  """

  scale: checks.NotNegative = 1.0
  warmup_steps: checks.Count = 10_000

  def __post_init__(self):
    checks.fields(self)

  def __call__(self, step):
    step = jnp.asarray(step, jnp.float32)
    return self.scale * jax.lax.rsqrt(jnp.maximum(step, self.warmup_steps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine:
  """Warms up to `peak`, then decays along half a cosine to a fraction of it.

  Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts. The lowest rate,
  peak * final_fraction, is reached at `total_steps` and kept from there on.
  """

  peak: checks.NotNegative
  warmup_steps: checks.Whole = 0
  total_steps: checks.Count | None = None  # None: the length of the run
  final_fraction: checks.Fraction = 0.0

  def __post_init__(self):
    checks.fields(self)
    _check_phases(self, "warmup_steps")

  def __call__(self, step):
    decay = optax.cosine_decay_schedule(
      self.peak,
      _needed_total_steps(self) - self.warmup_steps,
      alpha=self.final_fraction,
    )
    return _after_warmup(self, decay)(step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WSD:
  """Warms up, stays at `peak`, and decays in the last `decay_steps`.

  Hu et al. 2024 (MiniCPM), arXiv:2404.06395. `shape` is "linear", or "sqrt" for
  1 - sqrt(the fraction of the decay done), Hagele et al. 2024,
  arXiv:2405.18392.
  """

  peak: checks.NotNegative
  warmup_steps: checks.Whole = 0
  decay_steps: checks.Count
  total_steps: checks.Count | None = None  # None: the length of the run
  final_fraction: checks.Fraction = 0.0
  shape: str = "linear"

  def __post_init__(self):
    checks.fields(self)
    if self.shape not in ("linear", "sqrt"):
      raise ValueError(f"WSD.shape ({self.shape!r}) must be 'linear' or 'sqrt'")
    _check_phases(self, "warmup_steps", "decay_steps")

  def __call__(self, step):
    decay_start = _needed_total_steps(self) - self.decay_steps
    fraction_done = optax.linear_schedule(0.0, 1.0, self.decay_steps)

    def decay(step):
      fraction = fraction_done(step)
      if self.shape == "sqrt":
        fraction = jnp.sqrt(fraction)
      return self.peak * (1.0 - fraction * (1.0 - self.final_fraction))

    stable_then_decay = optax.join_schedules(
      [optax.constant_schedule(self.peak), decay],
      [decay_start - self.warmup_steps],
    )
    return _after_warmup(self, stable_then_decay)(step)


def fit_steps(schedule: Schedule, total_steps: int) -> Schedule:
  """Sets `total_steps` to the run's length in a schedule that has None."""
  if getattr(schedule, "total_steps", 0) is None:
    return dataclasses.replace(schedule, total_steps=total_steps)
  if isinstance(schedule, LinearWarmup):
    inner = fit_steps(schedule.schedule, total_steps)
    return dataclasses.replace(schedule, schedule=inner)
  return schedule


def _after_warmup(schedule, rest: optax.Schedule) -> optax.Schedule:
  """Puts a linear warmup to `schedule.peak` before `rest`."""
  if not schedule.warmup_steps:
    return lambda step: jnp.asarray(rest(step), jnp.float32)
  warmup = optax.linear_schedule(0.0, schedule.peak, schedule.warmup_steps)
  return optax.join_schedules([warmup, rest], [schedule.warmup_steps])


def _needed_total_steps(schedule) -> int:
  if schedule.total_steps is None:
    name = type(schedule).__name__
    raise ValueError(
      f"{name}.total_steps (None) is not set: set it, or call"
      " fit_steps(total_steps)"
    )
  return schedule.total_steps


def _check_phases(schedule, *fields: str):
  """Checks that the phases named by `fields` fit into `total_steps`."""
  if schedule.total_steps is None:
    return
  phases = sum(getattr(schedule, field) for field in fields)
  # A cosine needs a step after warmup; WSD's decay is one of the phases.
  at_most = "decay_steps" in fields
  room = schedule.total_steps - phases
  if room < (0 if at_most else 1):
    sizes = " + ".join(f"{f} ({getattr(schedule, f)})" for f in fields)
    raise ValueError(
      f"{type(schedule).__name__}: {sizes} must be"
      f" {'at most' if at_most else 'below'} total_steps"
      f" ({schedule.total_steps})"
    )
