"""Defines samplers: small frozen objects that choose a token from logits.

A sampler maps logits [..., V] and one random key to token ids [...]. Samplers
are hashable, so they can be static arguments of a jitted function. To add one,
write a class here (`request.Sampler`).
"""

import dataclasses
import math
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp

from t5x_lite import checks


@dataclasses.dataclass(frozen=True)
class Greedy:
  """Chooses the most probable token; ties go to the lowest id."""

  is_random: ClassVar[bool] = False

  def __call__(self, logits_BV: jax.Array, key: jax.Array) -> jax.Array:
    del key
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """Samples from softmax(logits / temperature), truncated in the fields' order.

  Each truncation sees the probabilities that the one before it left. Among
  equal logits, top_k and top_p keep lower ids.

  Attributes:
    temperature: divides the logits.
    top_k: keeps the k most probable tokens (Fan et al. 2018, arXiv:1805.04833).
    top_p: keeps the smallest set of most probable tokens whose probability
      reaches p (Holtzman et al. 2020, arXiv:1904.09751).
    min_p: keeps tokens at least min_p times as probable as the most probable
      (Nguyen et al. 2024, arXiv:2407.01082, section 3).
    typical_p: keeps the smallest set of tokens whose probability reaches p, of
      those whose information, -log p, is nearest to its mean, the entropy
      (Meister et al. 2023, arXiv:2202.00666, section 4).

  Raises:
    ValueError: a setting is out of range.
  """

  temperature: checks.Positive = 1.0
  top_k: checks.Count | None = None
  top_p: Annotated[float, checks.Range(0, 1, open_below=True)] | None = None
  min_p: checks.Fraction | None = None
  typical_p: Annotated[float, checks.Range(0, 1, open_below=True)] | None = None

  def __post_init__(self):
    checks.fields(self)

  def __call__(self, logits_BV: jax.Array, key: jax.Array) -> jax.Array:
    logits_BK, ids_BK = self._kept(logits_BV)
    choice_B = jax.random.categorical(key, logits_BK).astype(jnp.int32)
    if ids_BK is None:
      return choice_B
    return jnp.take_along_axis(ids_BK, choice_B[..., None], axis=-1)[..., 0]

  def probabilities(self, logits_BV: jax.Array) -> jax.Array:
    """Returns how probable each token is to be drawn, float32 [B, V]."""
    logits_BK, ids_BK = self._kept(logits_BV)
    probs_BK = jax.nn.softmax(logits_BK)
    if ids_BK is None:
      return probs_BK
    zeros_BV = jnp.zeros(logits_BV.shape, jnp.float32)
    return jnp.put_along_axis(zeros_BV, ids_BK, probs_BK, -1, inplace=False)

  def truncated(self, logits_BV: jax.Array) -> jax.Array:
    """Returns logits / temperature, [B, V], -inf for tokens not drawn."""
    kept_BK, ids_BK = self._kept(logits_BV)
    is_kept_BV = kept_BK > -jnp.inf
    if ids_BK is not None:
      rows_B1 = jnp.arange(logits_BV.shape[0])[:, None]
      none_BV = jnp.zeros(logits_BV.shape, bool)
      is_kept_BV = none_BV.at[rows_B1, ids_BK].set(is_kept_BV)
    return jnp.where(is_kept_BV, logits_BV / self.temperature, -jnp.inf)

  def _kept(self, logits_BV):
    """Returns the logits that are drawn from, and their ids if not all."""
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
    if self.min_p:
      least_B1 = jnp.max(logits_BV, -1, keepdims=True) + math.log(self.min_p)
      logits_BV = jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)
    if self.typical_p is not None and self.typical_p < 1:
      kept_BV = _typical(logits_BV, self.typical_p)
      logits_BV = jnp.where(kept_BV, logits_BV, -jnp.inf)
    return logits_BV, ids_BK


def _nucleus(logits_BV: jax.Array, p: float) -> jax.Array:
  """Marks the smallest set of most probable tokens whose mass reaches p."""
  probs_BV = jax.nn.softmax(logits_BV)

  def reaches(least_B1):
    return _mass(probs_BV, probs_BV >= least_B1) >= p

  least_B1 = _last_for_which(reaches, probs_BV)  # the least probability kept
  above_BV = probs_BV > least_B1
  least_BV = probs_BV == least_B1  # perhaps only some of these are needed
  mass_above_B1 = _mass(probs_BV, above_BV)
  before_BV = (jnp.cumsum(least_BV, axis=-1) - least_BV) * least_B1
  return above_BV | (least_BV & (mass_above_B1 + before_BV < p))


def _typical(logits_BV: jax.Array, p: float) -> jax.Array:
  """Marks the smallest set of most typical tokens whose mass reaches p."""
  log_probs_BV = jax.nn.log_softmax(logits_BV)
  probs_BV = jnp.exp(log_probs_BV)
  information_BV = jnp.where(probs_BV > 0, -log_probs_BV, 0.0)
  entropy_B1 = jnp.sum(probs_BV * information_BV, axis=-1, keepdims=True)
  distance_BV = jnp.abs(information_BV - entropy_B1)
  distance_BV = jnp.where(probs_BV > 0, distance_BV, jnp.inf)

  def falls_short(most_B1):
    return _mass(probs_BV, distance_BV < most_B1) < p

  return distance_BV <= _last_for_which(falls_short, distance_BV)


def _mass(probs_BV, kept_BV):
  return jnp.sum(jnp.where(kept_BV, probs_BV, 0.0), axis=-1, keepdims=True)


def _last_for_which(holds, like_BV) -> jax.Array:
  """Returns the greatest number for which something holds, [B, 1].

  Finds by bisection a bound among non-negative floats: 31 sums are several
  times faster than sorting the vocabulary. Non-negative floats have the same
  order as their bits read as integers, so bisecting the integers is exact.

  Args:
    holds: maps floats [B, 1] to bool [B, 1]; holds for 0, and for none above
      one for which it does not.
    like_BV: an array that says B.
  """

  def as_float(bits):
    return jax.lax.bitcast_convert_type(bits, jnp.float32)

  def halve(_, bounds):
    low_B1, high_B1 = bounds
    middle_B1 = low_B1 + (high_B1 - low_B1) // 2
    holds_B1 = holds(as_float(middle_B1))
    return (
      jnp.where(holds_B1, middle_B1, low_B1),
      jnp.where(holds_B1, high_B1, middle_B1),
    )

  zero_B1 = jnp.zeros((*like_BV.shape[:-1], 1), jnp.int32)
  infinity = jax.lax.bitcast_convert_type(jnp.float32(jnp.inf), jnp.int32)
  bounds = (zero_B1, zero_B1 + infinity)
  return as_float(jax.lax.fori_loop(0, 31, halve, bounds)[0])
