"""Defines samplers: small frozen objects that choose a token from logits.

A sampler maps logits [..., V] and one random key to token ids [...]. Samplers
are hashable, so they can be static arguments of a jitted function. To add one,
write a class here.
"""

import dataclasses
from typing import Annotated, Protocol

import jax
import jax.numpy as jnp

from t5x_lite import checks


class Sampler(Protocol):
  """Maps logits [B, V] and a random key to token ids [B], int32."""

  def __call__(self, logits_BV: jax.Array, key: jax.Array) -> jax.Array: ...

  def probabilities(self, logits_BV: jax.Array) -> jax.Array:
    """Returns how probable each token is to be chosen, float32 [B, V]."""


@dataclasses.dataclass(frozen=True)
class Greedy:
  """Chooses the most probable token; ties go to the lowest id."""

  def __call__(self, logits_BV: jax.Array, key: jax.Array) -> jax.Array:
    del key
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)

  def probabilities(self, logits_BV: jax.Array) -> jax.Array:
    return jax.nn.one_hot(jnp.argmax(logits_BV, -1), logits_BV.shape[-1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """Samples from softmax(logits / temperature), after top-k and then top-p.

  top_k keeps the k most probable tokens (Fan et al. 2018, arXiv:1805.04833).
  top_p keeps the smallest set of most probable tokens whose probability, after
  temperature and top_k, reaches p (Holtzman et al. 2020, arXiv:1904.09751).
  Among equal logits, lower ids are kept.

  Raises:
    ValueError: a setting is out of range.
  """

  temperature: checks.Positive = 1.0
  top_k: checks.Count | None = None
  top_p: Annotated[float, checks.Range(0, 1, open_below=True)] | None = None

  def __post_init__(self):
    checks.fields(self)

  def __call__(self, logits_BV: jax.Array, key: jax.Array) -> jax.Array:
    kept_BK, ids_BK = self._kept(logits_BV)
    choice_B = jax.random.categorical(key, kept_BK).astype(jnp.int32)
    if ids_BK is None:
      return choice_B
    return jnp.take_along_axis(ids_BK, choice_B[..., None], axis=-1)[..., 0]

  def probabilities(self, logits_BV: jax.Array) -> jax.Array:
    kept_BK, ids_BK = self._kept(logits_BV)
    probs_BK = jax.nn.softmax(kept_BK)
    if ids_BK is None:
      return probs_BK
    zeros_BV = jnp.zeros(logits_BV.shape, jnp.float32)
    return jnp.put_along_axis(zeros_BV, ids_BK, probs_BK, -1, inplace=False)

  def _kept(self, logits_BV):
    """Returns the logits of the tokens that may come, and their ids.

    Tokens that top_k keeps alone, with their ids; without it all, and None.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    # Subtract the maximum first: divided by a small temperature, large logits
    # would overflow to infinity.
    logits_BV -= jnp.max(logits_BV, axis=-1, keepdims=True)
    logits_BV /= self.temperature
    ids_BK = None
    if self.top_k is not None:
      num_kept = min(int(self.top_k), logits_BV.shape[-1])
      logits_BV, ids_BK = jax.lax.top_k(logits_BV, num_kept)
    if self.top_p is not None and self.top_p < 1:
      kept_BV = _nucleus(logits_BV, self.top_p)
      logits_BV = jnp.where(kept_BV, logits_BV, -jnp.inf)
    return logits_BV, ids_BK


def _nucleus(logits_BV: jax.Array, p: float) -> jax.Array:
  """Marks the smallest set of most probable tokens whose mass reaches p.

  Finds the lowest probability in the set by bisection: 30 sums are several
  times faster than sorting the vocabulary. Non-negative floats have the same
  order as their bits read as integers, so bisecting the integers is exact.
  """
  probs_BV = jax.nn.softmax(logits_BV)

  def mass_from(least_B1):
    kept_BV = jnp.where(probs_BV >= least_B1, probs_BV, 0.0)
    return jnp.sum(kept_BV, axis=-1, keepdims=True)

  def as_float(bits):
    return jax.lax.bitcast_convert_type(bits, jnp.float32)

  def halve(_, bounds):
    low_B1, high_B1 = bounds
    middle_B1 = (low_B1 + high_B1) // 2
    reaches_B1 = mass_from(as_float(middle_B1)) >= p
    return (
      jnp.where(reaches_B1, middle_B1, low_B1),
      jnp.where(reaches_B1, high_B1, middle_B1),
    )

  zero_B1 = jnp.zeros((*probs_BV.shape[:-1], 1), jnp.int32)
  above_one = jax.lax.bitcast_convert_type(jnp.float32(1), jnp.int32) + 1
  bounds = (zero_B1, zero_B1 + above_one)
  least_B1 = as_float(jax.lax.fori_loop(0, 30, halve, bounds)[0])

  above_BV = probs_BV > least_B1
  least_BV = probs_BV == least_B1  # perhaps only some of these are needed
  mass_above_B1 = jnp.sum(jnp.where(above_BV, probs_BV, 0.0), -1, keepdims=True)
  before_BV = (jnp.cumsum(least_BV, axis=-1) - least_BV) * least_B1
  return above_BV | (least_BV & (mass_above_B1 + before_BV < p))
