"""Ways to change RoPE's frequencies for texts longer than it was trained on."""

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp

from t5x_lite import checks


class RopeScaling(Protocol):
  """Changes the frequencies of Rope.

  Attributes:
    amplitude: factor on sines and cosines.
  """

  amplitude: float

  def frequencies(self, frequency_h: jax.Array, base: float) -> jax.Array:
    """Returns new frequencies for those of base^(-i / half)."""
    ...


@dataclasses.dataclass(frozen=True)
class Linear:
  """Divides all positions by a factor (Chen et al. 2023, arXiv:2306.15595)."""

  factor: checks.Positive
  amplitude: checks.Positive = 1.0

  def __post_init__(self):
    checks.fields(self)

  def frequencies(self, frequency_h, base):
    del base
    return frequency_h / self.factor


@dataclasses.dataclass(frozen=True)
class NTK:
  """Raises the base so that the lowest frequency is divided by the factor.

  base' = base * factor^(d / (d - 2)); Peng et al. 2023, arXiv:2309.00071,
  section 3.1, Eq. 17.
  """

  factor: checks.Positive
  amplitude: checks.Positive = 1.0

  def __post_init__(self):
    checks.fields(self)

  def frequencies(self, frequency_h, base):
    half = frequency_h.shape[0]
    raised = base * self.factor ** (half / (half - 1))
    return raised ** (-jnp.arange(half, dtype=jnp.float32) / half)


@dataclasses.dataclass(frozen=True)
class Yarn:
  """Divides low frequencies, keeps high ones, with a ramp between.

  Frequencies that turn more than `beta_fast` times over the original length
  stay, those that turn less than `beta_slow` times are divided by the factor.
  Peng et al. 2023, arXiv:2309.00071, sections 3.2 to 3.4.

  Attributes:
    factor: how many times longer the texts are.
    original_length: tokens of the texts before.
    beta_fast, beta_slow: turns where the ramp begins and ends.
    amplitude: None means 0.1 ln(factor) + 1, Eq. 22.
  """

  factor: checks.Positive
  original_length: checks.Count
  beta_fast: checks.Positive = 32.0
  beta_slow: checks.Positive = 1.0
  amplitude: checks.Positive | None = None

  def __post_init__(self):
    checks.fields(self)
    if self.amplitude is None:
      default = 0.1 * math.log(self.factor) + 1 if self.factor > 1 else 1.0
      object.__setattr__(self, "amplitude", default)

  def frequencies(self, frequency_h, base):
    half = frequency_h.shape[0]

    def feature_that_turns(times):
      turns = math.log(self.original_length / (times * 2 * math.pi))
      return half * turns / math.log(base)

    low = max(math.floor(feature_that_turns(self.beta_fast)), 0)
    high = min(math.ceil(feature_that_turns(self.beta_slow)), 2 * half - 1)
    # A ramp of no width would divide by zero.
    width = max(high - low, 0.001)
    divided = jnp.clip((jnp.arange(half) - low) / width, 0, 1)
    return frequency_h * (1 - divided + divided / self.factor)


@dataclasses.dataclass(frozen=True)
class Llama3:
  """Divides long wavelengths, keeps short ones, and blends between.

  Llama Team 2024, arXiv:2407.21783; the blend is that of the published code
  for Llama 3.1.

  Attributes:
    factor: how many times longer the texts are.
    original_length: tokens of the texts before.
    low_freq_factor, high_freq_factor: wavelengths above original_length / low
      are divided, those below original_length / high stay.
  """

  factor: checks.Positive = 8.0
  original_length: checks.Count = 8192
  low_freq_factor: checks.Positive = 1.0
  high_freq_factor: checks.Positive = 4.0
  amplitude: checks.Positive = 1.0

  def __post_init__(self):
    checks.fields(self)

  def frequencies(self, frequency_h, base):
    del base
    turns = self.original_length * frequency_h / (2 * math.pi)
    low, high = self.low_freq_factor, self.high_freq_factor
    kept = jnp.clip((turns - low) / (high - low), 0, 1)
    return frequency_h * (kept + (1 - kept) / self.factor)
