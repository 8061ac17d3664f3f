"""DecodeState: what generation carries from token to token."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite.nn.attention_rules import TokenInfo
from t5x_lite.nn.caches import KVCache, LayerCache, StackCache


class DecodeState(NamedTuple):
  """What generation carries from token to token.

  Attributes:
    cache: of the decoder; every row writes the same slot.
    slot: int32 scalar, the next slot to write.
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
        these slots of the cache alone; nothing else is copied then.
    """
    if slots is not None:
      return self._replace(cache=_exchange_slots(self.cache, index, *slots))

    def take_tokens(tokens):
      # What all rows share is [1, T].
      return jax.tree.map(
        lambda x: x[index] if x.shape[0] == rows else x, tokens
      )

    def take(part):
      if isinstance(part, TokenInfo):
        return take_tokens(part)
      return KVCache(*(jnp.take(x, index, axis=x.ndim - 4) for x in part))

    rows = self.next.index.shape[0]
    return self._replace(
      cache=jax.tree.map(take, self.cache, is_leaf=_is_part),
      next=take_tokens(self.next),
      source=self.source and take_tokens(self.source),
    )


def _exchange_slots(cache: Any, index: jax.Array, first, count: int) -> Any:
  """Takes rows of `count` slots of self-attention, from `first` on."""

  def exchange(x):
    slots = jax.lax.dynamic_slice_in_dim(x, first, count, axis=x.ndim - 2)
    slots = jnp.take(slots, index, axis=x.ndim - 4)
    return jax.lax.dynamic_update_slice_in_dim(x, slots, first, axis=x.ndim - 2)

  def exchange_part(part):
    if isinstance(part, LayerCache):
      return part._replace(attention=jax.tree.map(exchange, part.attention))
    return jax.tree.map(exchange, part) if isinstance(part, KVCache) else part

  return jax.tree.map(
    exchange_part,
    cache,
    is_leaf=lambda x: isinstance(x, LayerCache) or _is_part(x),
  )


def _is_part(x) -> bool:
  # A KVCache is [B, K, S, H]; a scan stacks those of its layers in front.
  return isinstance(x, KVCache | TokenInfo)
