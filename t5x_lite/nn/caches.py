"""What layers and stacks keep between decoding steps."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.nn.attention_rules import TokenInfo


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caching:
  """Says how generation keeps keys and values, and reads long prompts.

  Attributes:
    dtype: of the kept keys and values; None means that of the activations.
    prefill_chunk: tokens of the prompts that are read at once, which bounds
      the memory of reading them; None means all.
  """

  dtype: Literal["float32", "bfloat16"] | None = None
  prefill_chunk: checks.Count | None = None

  def __post_init__(self):
    checks.fields(self)


PLAIN_CACHE = Caching()


class KVCache(NamedTuple):
  """Keys and values of one attention layer, [B, K, S, H] each."""

  keys: jax.Array
  values: jax.Array

  def write(self, new: "KVCache", slot: jax.Array) -> "KVCache":
    """Returns the cache with `new` [B, K, T, H] written from `slot` on."""
    return jax.tree.map(lambda old, x: _write(old, x, slot, axis=2), self, new)


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
    return _write(old_BS, new_BT, slot, axis=1)

  # Features are read where tokens are embedded; no key is asked for them.
  return jax.tree.map(write, cached, new._replace(features={}))


def without_tokens_from(cache: Any, index_B1: jax.Array) -> Any:
  """Empties the slots whose token has `index_B1` or a later index.

  Not needed under causal rules, to which such tokens lie in the future until
  they are overwritten; but Sinks, say, goes by positions.
  """

  def emptied(x):
    if not isinstance(x, TokenInfo):
      return x
    return x._replace(segment=jnp.where(x.index < index_B1, x.segment, 0))

  return jax.tree.map(
    emptied, cache, is_leaf=lambda x: isinstance(x, TokenInfo)
  )


def _write(old, new, slot, axis):
  """Writes along an axis of [B, ...], from one slot on, or one per row."""
  new = new.astype(old.dtype)
  if jnp.ndim(slot) == 0:
    return jax.lax.dynamic_update_slice_in_dim(old, new, slot, axis)

  def row(old, new, slot):
    return jax.lax.dynamic_update_slice_in_dim(old, new, slot, axis - 1)

  return jax.vmap(row)(old, new, slot)
