"""DecodeState: what generation carries from token to token."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite.nn.attention_rules import TokenInfo
from t5x_lite.nn.caches import Int8KVCache, KVCache, StackCache


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

  def put_row(self, other: "DecodeState", place: jax.Array) -> "DecodeState":
    """Returns the state with the one row of another in place of one of its own.

    Args:
      other: of one row, with a slot per row; what it holds fewer of, such as
        tokens of the source, is filled up with padding.
      place: int32 scalar, which row is replaced.
    """

    def put(old, new, axis):
      room = [(0, n - m) for n, m in zip(old.shape, new.shape, strict=True)]
      room[axis] = (0, 0)
      return jax.lax.dynamic_update_slice_in_dim(
        old, jnp.pad(new, room), place, axis
      )

    def put_part(old, new):
      # A cache is [B, K, S, H]; a scan stacks those of its layers in front.
      before = 4 if isinstance(old, KVCache | Int8KVCache) else None
      return jax.tree.map(
        lambda x, y: put(x, y, x.ndim - before if before else 0), old, new
      )

    return jax.tree.map(
      put_part, self, other,
      is_leaf=lambda x: isinstance(x, KVCache | Int8KVCache),
    )  # fmt: skip
