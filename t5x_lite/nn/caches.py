"""What layers and stacks keep between decoding steps."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.nn import attention_rules
from t5x_lite.nn.attention_rules import AttentionRule, TokenInfo


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caching:
  """Says how generation keeps keys and values, and reads long prompts.

  Attributes:
    dtype: of the kept keys and values; None means that of the activations.
      "int8" has a scale per head and token beside them.
    prefill_chunk: tokens of the prompts that are read at once, which bounds
      the memory of reading them; None means all. Stacks all of whose layers
      have windows then keep window + prefill_chunk - 1 tokens a row; a step
      may append at most prefill_chunk tokens.
  """

  dtype: Literal["float32", "bfloat16", "int8"] | None = None
  prefill_chunk: checks.Count | None = None

  def __post_init__(self):
    checks.fields(self)


PLAIN_CACHE = Caching()


class KVCache(NamedTuple):
  """Keys and values of one attention layer, [B, K, S, H] each."""

  keys: jax.Array
  values: jax.Array

  def write(self, new: "KVCache", slot: jax.Array) -> "KVCache":
    """Returns the cache with `new` [B, K, T, H] written at `slot`.

    Args:
      new: keys and values.
      slot: int32, the slot of the first token, a scalar or one per row [B]; or
        the slot of each token [B, T], of which those outside are not written.
    """
    return jax.tree.map(lambda old, x: _write(old, x, slot, axis=2), self, new)

  def read(self) -> "KVCache":
    """Returns the keys and values: these."""
    return self


class Int8KVCache(NamedTuple):
  """Keys and values in 8 bits, with a scale per head and slot.

  Attributes:
    keys, values: int8 [B, K, S, H], in [-127, 127].
    key_scales, value_scales: float32 [B, K, S, 1], what 1 stands for.
  """

  keys: jax.Array
  values: jax.Array
  key_scales: jax.Array
  value_scales: jax.Array

  def write(self, new: KVCache, slot: jax.Array) -> "Int8KVCache":
    """Returns the cache with `new`, rounded, written at `slot`."""
    keys, key_scales = _rounded(new.keys)
    values, value_scales = _rounded(new.values)
    rounded = Int8KVCache(keys, values, key_scales, value_scales)
    return jax.tree.map(
      lambda old, x: _write(old, x, slot, axis=2), self, rounded
    )

  def read(self) -> KVCache:
    """Returns float32 keys and values."""
    return KVCache(self.keys * self.key_scales, self.values * self.value_scales)


class PooledKVCache(NamedTuple):
  """Keys and values of rows that share the slots of one pool.

  PagedAttention (Kwon et al. 2023, arXiv:2309.06180) with pages of one token.

  Attributes:
    pool: a cache of one row, whose P slots all rows share.
    places: int32 [B, S], the slot in the pool of each slot of each row; P where
      a row has none.
  """

  pool: KVCache | Int8KVCache
  places: jax.Array

  def write(self, new: KVCache, slot: jax.Array) -> "PooledKVCache":
    """Returns the cache with `new` [B, K, T, H] written from `slot` [B] on."""

    def in_one_row(x):
      return x.swapaxes(0, 1).reshape(1, x.shape[1], -1, x.shape[3])

    slot_BT = slot[:, None] + jnp.arange(new.keys.shape[2])
    place_BT = jnp.take_along_axis(self.places, slot_BT, axis=1, mode="clip")
    new = jax.tree.map(in_one_row, new)
    return self._replace(pool=self.pool.write(new, place_BT.reshape(1, -1)))

  def read(self) -> KVCache:
    """Returns the rows, each with all of its slots: a copy."""

    def of_rows(x):
      return x[0][:, self.places].swapaxes(0, 1)

    return jax.tree.map(of_rows, self.pool).read()

  def with_row(
    self, new: KVCache | Int8KVCache, row: jax.Array, places: jax.Array
  ) -> "PooledKVCache":
    """Returns the cache with other places, and those of a row filled."""
    pool = jax.tree.map(
      lambda old, x: _write(old, x, places[row][None], axis=2), self.pool, new
    )
    return PooledKVCache(pool, places)


def _rounded(x):
  """Rounds each head's vector of each slot; returns int8 and the scale."""
  x = x.astype(jnp.float32)
  scale = jnp.max(jnp.abs(x), axis=-1, keepdims=True) / 127
  return jnp.round(x / jnp.maximum(scale, 1e-30)).astype(jnp.int8), scale


def empty_kv(
  batch: int, num_kv_heads: int, length: int, head_dim: int, dtype: str
) -> KVCache | Int8KVCache:
  """Returns a layer's cache of `length` empty slots a row."""
  zeros = jnp.zeros((batch, num_kv_heads, length, head_dim), dtype)
  if jnp.dtype(dtype) == jnp.int8:
    scales = jnp.zeros((batch, num_kv_heads, length, 1), jnp.float32)
    return Int8KVCache(zeros, zeros, scales, scales)
  return KVCache(zeros, zeros)


class LayerCache(NamedTuple):
  """The caches of a layer's attentions; None where it keeps none."""

  attention: KVCache | Int8KVCache | None
  cross_attention: KVCache | Int8KVCache | None


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Ring:
  """Says that the slots of a cache are used over and over again.

  Attributes:
    length: how many there are.
    chunk: how many tokens may be appended at once.
  """

  length: int
  chunk: int

  @classmethod
  def fit(
    cls, rules: Sequence[AttentionRule], length: int, chunk: int | None
  ) -> "Ring | None":
    """Returns the ring that serves layers of these rules.

    Args:
      rules: one per layer.
      length: slots without a ring.
      chunk: how many tokens are appended at once, or None for no ring.

    Returns:
      None if no ring is asked for, a layer looks further back than a window,
      or the ring would not be shorter.
    """
    found = [attention_rules.pattern(rule) for rule in rules]
    if not chunk or not all(
      one and one.window is not None and not one.prefix for one in found
    ):
      return None
    # The first token of a chunk still sees its window.
    slots = max(one.window for one in found) + chunk - 1
    return cls(slots, chunk) if slots < length else None

  def slots(self, tokens: TokenInfo) -> jax.Array:
    """Returns the slots of tokens, [B, T]; padding has none in the ring."""
    if (length := tokens.index.shape[1]) > self.chunk:
      raise ValueError(
        f"a step appends {length} tokens to a cache that takes {self.chunk} at "
        "once: raise Caching.prefill_chunk"
      )
    slot_BT = tokens.index % self.length
    return jnp.where(tokens.segment != 0, slot_BT, self.length)


class StackCache(NamedTuple):
  """The caches of a stack's layers.

  Attributes:
    layers: one LayerCache per layer; under scan one per layer of the period,
      stacked on a first axis.
    tokens: [B, S], where each cached token stands; segment 0 is an empty slot.
    ring: set where the cache is shorter than the rows, and a token's slot is
      its index modulo S.
  """

  layers: tuple[LayerCache, ...]
  tokens: TokenInfo
  ring: Ring | None = None


class SharedKV(NamedTuple):
  """Keys and values that several layers read, and where their tokens stand."""

  kv: KVCache | Int8KVCache
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
  """Writes along an axis of [B, ...]; see KVCache.write."""
  new = new.astype(old.dtype)
  if jnp.ndim(slot) == 0:
    return jax.lax.dynamic_update_slice_in_dim(old, new, slot, axis)

  if slot.ndim == 2:
    rows = jnp.arange(old.shape[0])[:, None]
    # Dims that are indexed by arrays come first, [B, T, ...].
    index = (rows, *[slice(None)] * (axis - 1), slot)
    return old.at[index].set(jnp.moveaxis(new, axis, 1), mode="drop")

  def row(old, new, slot):
    return jax.lax.dynamic_update_slice_in_dim(old, new, slot, axis - 1)

  return jax.vmap(row)(old, new, slot)
