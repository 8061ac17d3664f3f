"""Position encodings, one small class each.

An encoding may act in three places, and each class fills in those it uses:
`embed` adds to the embeddings once, `rotate` turns queries and keys in every
layer, `bias` adds to the attention logits of every layer.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite.nn import checks
from t5x_lite.nn.visibility import Tokens


class NoPosition(nn.Module):
  """Encodes nothing: order is known from the visibility rule alone."""

  def check(self, num_heads: int, head_dim: int):
    """Refuses attention heads that the encoding does not fit."""
    del num_heads, head_dim

  def embed(self, x_BTD: jax.Array, tokens: Tokens) -> jax.Array:
    """Adds the encoding to the embeddings [B, T, D]."""
    del tokens
    return x_BTD

  def rotate(self, x_BNTH: jax.Array, tokens: Tokens) -> jax.Array:
    """Turns queries or keys [B, N, T, H] by their positions."""
    del tokens
    return x_BNTH

  def bias(self, query: Tokens, key: Tokens) -> jax.Array | None:
    """Returns what is added to the logits, [B or 1, N, T, S], or None."""
    del query, key
    return None


class T5Bias(NoPosition):
  """Adds one learned scalar per head and bucket of relative distance.

  Distances up to half the buckets have one each, the rest share buckets that
  widen logarithmically up to `max_distance`. Shared by all layers of a stack.
  Raffel et al. 2020, arXiv:1910.10683, section 2.1.

  Attributes:
    bidirectional: half of the buckets for keys after the query (encoders).
  """

  num_heads: int
  bidirectional: bool
  num_buckets: int = 32
  max_distance: int = 128

  def __post_init__(self):
    # Half of one direction's buckets are of one distance each.
    exact = self.num_buckets // (4 if self.bidirectional else 2)
    if exact < 1:
      least = 4 if self.bidirectional else 2
      raise ValueError(
        f"T5Bias.num_buckets ({self.num_buckets}) must be at least {least}"
      )
    if self.max_distance <= exact:
      raise ValueError(
        f"T5Bias.max_distance ({self.max_distance}) must be greater than the "
        f"{exact} buckets of one distance"
      )
    super().__post_init__()

  def check(self, num_heads: int, head_dim: int):
    del head_dim
    if num_heads != self.num_heads:
      raise ValueError(
        f"T5Bias.num_heads ({self.num_heads}) must equal Attention.num_heads "
        f"({num_heads})"
      )

  @nn.compact
  def bias(self, query: Tokens, key: Tokens) -> jax.Array:
    init = nn.with_logical_partitioning(
      nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
      ("buckets", "heads"),
    )
    shape = (self.num_buckets, self.num_heads)
    table = self.param("relative_bias", init, shape, jnp.float32)
    distance = key.index[:, None, :] - query.index[:, :, None]
    bucket_BTS = relative_bucket(
      distance,
      bidirectional=self.bidirectional,
      num_buckets=self.num_buckets,
      max_distance=self.max_distance,
    )
    return _lookup(table.T, bucket_BTS).swapaxes(0, 1)


@jax.custom_vjp
def _lookup(table_NU, bucket_BTS):
  """Picks a column per bucket: [N, B, T, S]."""
  return jnp.take(table_NU, bucket_BTS, axis=1)


def _lookup_forward(table_NU, bucket_BTS):
  return _lookup(table_NU, bucket_BTS), (bucket_BTS, table_NU.shape)


def _lookup_backward(residuals, g_NBTS):
  bucket_BTS, shape = residuals
  # The barrier adds up the layers' gradients before the scatter transposes
  # them: fused, it would read all of them in strides.
  g_NX = jax.lax.optimization_barrier(g_NBTS).reshape(shape[0], -1)
  zeros = jnp.zeros(shape, g_NX.dtype)
  return zeros.at[:, bucket_BTS.reshape(-1)].add(g_NX), None


_lookup.defvjp(_lookup_forward, _lookup_backward)


def relative_bucket(
  distance: jax.Array,
  *,
  bidirectional: bool,
  num_buckets: int,
  max_distance: int,
) -> jax.Array:
  """Sorts relative distances (key minus query) into T5's buckets.

  Returns:
    int32 in [0, num_buckets), the shape of `distance`.
  """
  offset = 0
  if bidirectional:
    num_buckets //= 2
    offset = num_buckets * (distance > 0)
    distance = jnp.abs(distance)
  else:
    distance = jnp.maximum(-distance, 0)
  exact = num_buckets // 2
  # Past `exact`, the bucket grows with the logarithm of the distance.
  ratio = jnp.maximum(distance, 1).astype(jnp.float32) / exact
  large = exact + (
    jnp.log(ratio) / math.log(max_distance / exact) * (num_buckets - exact)
  ).astype(jnp.int32)
  large = jnp.minimum(large, num_buckets - 1)
  return offset + jnp.where(distance < exact, distance, large)


class Rope(NoPosition):
  """Rotates pairs of query and key features by angles that grow with position.

  Feature i is paired with feature i + H/2. Eq. 34, Su et al. 2021,
  arXiv:2104.09864.
  """

  base: float = 10_000.0

  def check(self, num_heads: int, head_dim: int):
    del num_heads
    if head_dim % 2:
      raise ValueError(f"Rope turns pairs: head_dim ({head_dim}) must be even")

  def rotate(self, x_BNTH: jax.Array, tokens: Tokens) -> jax.Array:
    half = x_BNTH.shape[-1] // 2
    frequency = self.base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    # float32: positions past 256 are not exact in bfloat16.
    angle_B1Th = (tokens.position[:, None, :, None] * frequency).astype(
      jnp.float32
    )
    sin, cos = jnp.sin(angle_B1Th), jnp.cos(angle_B1Th)
    first, second = jnp.split(x_BNTH.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate(
      [first * cos - second * sin, second * cos + first * sin], axis=-1
    )
    return rotated.astype(x_BNTH.dtype)


class Learned(NoPosition):
  """Adds one learned vector per position (GPT, BERT).

  Attributes:
    max_length: positions that there are; NaN where decoding goes beyond.
    stddev: of the initial values.
  """

  max_length: int
  stddev: float = 0.02

  def __post_init__(self):
    checks.at_least_one(self, "max_length")
    super().__post_init__()

  @nn.compact
  def embed(self, x_BTD: jax.Array, tokens: Tokens) -> jax.Array:
    length = tokens.position.shape[1]
    if length > self.max_length:
      raise ValueError(
        f"rows of {length} tokens are longer than Learned.max_length "
        f"({self.max_length})"
      )
    init = nn.with_logical_partitioning(
      nn.initializers.normal(self.stddev), ("length", "embed")
    )
    shape = (self.max_length, x_BTD.shape[-1])
    table = self.param("position_embedding", init, shape, jnp.float32)
    # Not table[...], which repeats the last position for those beyond it.
    return x_BTD + jnp.take(table, tokens.position, 0).astype(x_BTD.dtype)
