"""What layers and stacks keep between decoding steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite.nn.attention_rules import TokenInfo


class KVCache(NamedTuple):
  """Keys and values of one attention layer, [B, K, S, H] each."""

  keys: jax.Array
  values: jax.Array

  def write(self, new: "KVCache", slot: jax.Array) -> "KVCache":
    """Returns the cache with `new` [B, K, T, H] written from `slot` on."""
    return jax.tree.map(
      lambda old, x: jax.lax.dynamic_update_slice_in_dim(
        old, x.astype(old.dtype), slot, axis=2
      ),
      self,
      new,
    )


class LayerCache(NamedTuple):
  """The caches of a layer's attentions; None where it keeps none."""

  attention: KVCache | None
  cross_attention: KVCache | None


class StackCache(NamedTuple):
  """The caches of a stack's layers.

  Attributes:
    layers: one LayerCache per layer; under scan one per layer of the period,
      stacked on a first axis.
    tokens: [B, S], where each cached token stands; segment 0 is an empty slot.
  """

  layers: tuple[LayerCache, ...]
  tokens: TokenInfo


class SharedKV(NamedTuple):
  """Keys and values that several layers read, and where their tokens stand."""

  kv: KVCache
  tokens: TokenInfo


def empty_tokens(batch: int, length: int) -> TokenInfo:
  """Returns the tokens of `length` empty slots a row."""
  zeros = jnp.zeros((batch, length), jnp.int32)
  return TokenInfo(zeros, zeros, zeros, zeros.astype(bool))


def write_tokens(
  cached: TokenInfo, new: TokenInfo, slot: jax.Array
) -> TokenInfo:
  """Returns the cached tokens with `new` written from `slot` on."""

  def write(old_BS, new_BT):
    new_BT = jnp.broadcast_to(new_BT, (old_BS.shape[0], new_BT.shape[1]))
    return jax.lax.dynamic_update_slice_in_dim(old_BS, new_BT, slot, axis=1)

  # Features are read where tokens are embedded; no key is asked for them.
  return jax.tree.map(write, cached, new._replace(features={}))
