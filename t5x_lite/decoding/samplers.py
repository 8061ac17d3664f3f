"""Samplers: small frozen objects that choose the next token from logits.

A sampler maps logits [..., V] and one random key to token ids [...]. Being
hashable values, samplers may be static arguments of a jitted function. A new
one is a class here.
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Greedy:
  """Chooses the most probable token; of equals, the lowest id."""

  def __call__(self, logits_BV: jax.Array, key: jax.Array) -> jax.Array:
    del key
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """Draws from softmax(logits / temperature), cut first to k, then to p.

  top_k keeps the k most probable tokens (Fan et al. 2018, arXiv:1805.04833).
  top_p keeps the smallest set of most probable tokens whose mass, after the
  two settings before it, reaches p (Holtzman et al. 2020, arXiv:1904.09751).
  Among equal logits the lower ids are kept.

  Raises:
    ValueError: a setting is out of its range.
  """

  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None

  def __post_init__(self):
    if not 0 < self.temperature < float("inf"):
      raise ValueError(
        f"temperature ({self.temperature}) must be above 0 and finite; for "
        "the most probable token use Greedy()"
      )
    if self.top_k is not None and (
      self.top_k != int(self.top_k) or self.top_k < 1
    ):
      raise ValueError(
        f"top_k ({self.top_k}) must be a whole number from 1; None keeps all"
      )
    if self.top_p is not None and not 0 < self.top_p <= 1:
      raise ValueError(
        f"top_p ({self.top_p}) must be above 0 and at most 1; None keeps all"
      )

  def __call__(self, logits_BV: jax.Array, key: jax.Array) -> jax.Array:
    logits_BV = logits_BV.astype(jnp.float32)
    # The largest is subtracted before the division, so that no temperature
    # makes two infinities of it.
    logits_BV -= jnp.max(logits_BV, axis=-1, keepdims=True)
    logits_BV /= self.temperature
    vocab_size = logits_BV.shape[-1]
    # A cumulative sum in float32 reaches 1 before the last token: p = 1 must
    # not cut.
    cut_mass = self.top_p is not None and self.top_p < 1
    if self.top_k is None and not cut_mass:
      return jax.random.categorical(key, logits_BV).astype(jnp.int32)

    num_kept = vocab_size if self.top_k is None else int(self.top_k)
    # Sorted from most probable; of equals, lower ids first.
    logits_BK, ids_BK = jax.lax.top_k(logits_BV, min(num_kept, vocab_size))
    if cut_mass:
      probs_BK = jax.nn.softmax(logits_BK)
      mass_before_BK = jnp.cumsum(probs_BK, axis=-1) - probs_BK
      logits_BK = jnp.where(mass_before_BK < self.top_p, logits_BK, -jnp.inf)
    choice_B = jax.random.categorical(key, logits_BK)
    return jnp.take_along_axis(ids_BK, choice_B[..., None], axis=-1)[..., 0]
