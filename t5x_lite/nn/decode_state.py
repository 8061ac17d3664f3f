"""DecodeState: what generation carries from token to token."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite.nn.attention_rules import TokenInfo
from t5x_lite.nn.caches import (
  Int8KVCache,
  KVCache,
  LayerCache,
  PooledKVCache,
  SharedKV,
  StackCache,
)


class DecodeState(NamedTuple):
  """What generation carries from token to token.

  Attributes:
    cache: of the decoder.
    slot: int32, the next slot to write: a scalar where all rows write the same
      one, [B] where rows have advanced by different numbers of tokens.
    next: the info of the next token of each row, [B, 1].
    source: the encoder's tokens, or None.
  """

  cache: StackCache
  slot: jax.Array
  next: TokenInfo
  source: TokenInfo | None

  def take_rows(
    self, index: jax.Array, *, slots: tuple[jax.Array | int, int] | None = None
  ) -> "DecodeState":
    """Returns the state with row index[i] as row i.

    Args:
      index: int32 [rows of the new state], rows of this state.
      slots: (first, count), if a row and the one that it replaces differ in
        these slots of the cache alone; nothing else is copied then, but in a
        ring, whose slots come again.
    """
    if slots is not None and not _has_ring(self.cache):
      return self._replace(cache=_exchange_slots(self.cache, index, *slots))

    def take_tokens(tokens):
      # What all rows share is [1, T].
      return jax.tree.map(
        lambda x: x[index] if x.shape[0] == rows else x, tokens
      )

    def take(part):
      if isinstance(part, TokenInfo):
        return take_tokens(part)
      return jax.tree.map(lambda x: jnp.take(x, index, axis=x.ndim - 4), part)

    rows = self.next.index.shape[0]
    return self._replace(
      cache=jax.tree.map(take, self.cache, is_leaf=_is_part),
      next=take_tokens(self.next),
      source=self.source and take_tokens(self.source),
    )

  def pooled(self, slots: int) -> "DecodeState":
    """Returns an empty state whose rows share so many slots, and have none yet.

    A ring stays as it is, and so do an encoder's keys and values.
    """

    def pool(kv):
      def shared(x):
        shape = (*x.shape[:-4], 1, x.shape[-3], slots, x.shape[-1])
        return jnp.zeros(shape, x.dtype)

      *stacked, rows, _, length, _ = kv.keys.shape
      places = jnp.full((*stacked, rows, length), slots, jnp.int32)
      return PooledKVCache(jax.tree.map(shared, kv), places)

    def pool_part(part):
      if isinstance(part, LayerCache) and part.attention is not None:
        return part._replace(attention=pool(part.attention))
      if isinstance(part, SharedKV):
        return part._replace(kv=pool(part.kv))
      return part

    def is_part(x):
      is_ring = isinstance(x, StackCache) and x.ring is not None
      return is_ring or isinstance(x, LayerCache | SharedKV)

    cache = jax.tree.map(pool_part, self.cache, is_leaf=is_part)
    return self._replace(cache=cache)

  def put_row(
    self,
    other: "DecodeState",
    place: jax.Array,
    places_BS: jax.Array | None = None,
  ) -> "DecodeState":
    """Returns the state with the one row of another in place of one of its own.

    Args:
      other: of one row, with a slot per row; what it holds fewer of, such as
        tokens of the source, is filled up with padding.
      place: int32 scalar, which row is replaced.
      places_BS: of a `pooled` state, the slots of all rows from now on.
    """

    def put(old, new, axis):
      room = [(0, n - m) for n, m in zip(old.shape, new.shape, strict=True)]
      room[axis] = (0, 0)
      return jax.lax.dynamic_update_slice_in_dim(
        old, jnp.pad(new, room), place, axis
      )

    def put_part(old, new):
      if isinstance(old, PooledKVCache):
        put_kv = functools.partial(
          PooledKVCache.with_row, row=place, places=places_BS
        )
        is_stacked = old.places.ndim > 2
        return (jax.vmap(put_kv) if is_stacked else put_kv)(old, new)
      # A cache is [B, K, S, H]; a scan stacks those of its layers in front.
      before = 4 if _is_kv(old) else None
      return jax.tree.map(
        lambda x, y: put(x, y, x.ndim - before if before else 0), old, new
      )

    return jax.tree.map(put_part, self, other, is_leaf=_is_kv)


def _exchange_slots(cache: Any, index: jax.Array, first, count: int) -> Any:
  """Takes rows of `count` slots of self-attention, from `first` on."""

  def exchange(x):
    slots = jax.lax.dynamic_slice_in_dim(x, first, count, axis=x.ndim - 2)
    slots = jnp.take(slots, index, axis=x.ndim - 4)
    return jax.lax.dynamic_update_slice_in_dim(x, slots, first, axis=x.ndim - 2)

  def exchange_part(part):
    if isinstance(part, LayerCache):
      return part._replace(attention=jax.tree.map(exchange, part.attention))
    return jax.tree.map(exchange, part) if _is_kv(part) else part

  return jax.tree.map(
    exchange_part,
    cache,
    is_leaf=lambda x: isinstance(x, LayerCache) or _is_part(x),
  )


def _is_part(x) -> bool:
  # A KVCache is [B, K, S, H]; a scan stacks those of its layers in front.
  return _is_kv(x) or isinstance(x, TokenInfo)


def _is_kv(x) -> bool:
  return isinstance(x, KVCache | Int8KVCache | PooledKVCache)


def _has_ring(cache: Any) -> bool:
  stacks = jax.tree.leaves(cache, is_leaf=lambda x: isinstance(x, StackCache))
  return any(isinstance(x, StackCache) and x.ring for x in stacks)
