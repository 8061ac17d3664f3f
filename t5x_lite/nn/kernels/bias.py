"""Biases on attention logits that are functions of the relative distance.

A kernel may compute them block by block; others read them as an array.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

_static = functools.partial(dataclasses.field, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Buckets:
  """One scalar per head and bucket of relative distance (T5).

  Raffel et al. 2020, arXiv:1910.10683, section 2.1.

  Attributes:
    table_UN: float32, the scalars of U buckets.
    bidirectional: whether half of the buckets are for keys after the query.
    max_distance: the last bucket has all distances from here on.
  """

  table_UN: jax.Array
  bidirectional: bool = _static()
  max_distance: int = _static()

  @property
  def num_buckets(self) -> int:
    """Returns U."""
    return self.table_UN.shape[0]

  def array(
    self, query_index_BT: jax.Array, key_index_BS: jax.Array
  ) -> jax.Array:
    """Returns the bias on the logits, float32 [B or 1, N, T, S]."""
    distance = key_index_BS[:, None, :] - query_index_BT[:, :, None]
    bucket_BTS = relative_bucket(
      distance,
      bidirectional=self.bidirectional,
      num_buckets=self.num_buckets,
      max_distance=self.max_distance,
    )
    return _lookup(self.table_UN.T, bucket_BTS).swapaxes(0, 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slopes:
  """A penalty per head in proportion to the distance (ALiBi).

  Press et al. 2021, arXiv:2108.12409.

  Attributes:
    slopes_N: float32, what one token of distance takes off the logit.
  """

  slopes_N: jax.Array

  def array(
    self, query_index_BT: jax.Array, key_index_BS: jax.Array
  ) -> jax.Array:
    """Returns the bias on the logits, float32 [B or 1, N, T, S]."""
    distance = key_index_BS[:, None, :] - query_index_BT[:, :, None]
    slopes_N11 = self.slopes_N[:, None, None]
    return -slopes_N11 * jnp.abs(distance)[:, None].astype(jnp.float32)


# What is added to the scaled logits: [B or 1, N or 1, T, S], a function of the
# distance, or nothing.
Bias = jax.Array | Buckets | Slopes | None


def as_array(
  bias: Bias, query_index_BT: jax.Array, key_index_BS: jax.Array
) -> jax.Array | None:
  """Returns a bias as an array [B or 1, N or 1, T, S], or None."""
  if isinstance(bias, Buckets | Slopes):
    return bias.array(query_index_BT, key_index_BS)
  return bias


@jax.custom_vjp
def _lookup(table_NU, bucket_BTS):
  """Looks up the column of each bucket: [N, B, T, S]."""
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
  """Maps relative distances (key minus query) to T5's buckets.

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
