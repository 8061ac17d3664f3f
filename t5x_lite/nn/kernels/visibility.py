"""Visibility: which keys a query may attend to, as kernels read it.

An attention rule states itself as a Pattern where it can. A kernel computes the
pattern's mask block by block from the tokens' indices, so that no array of
queries x keys is needed; rules without a pattern have only their mask.
"""

import dataclasses
import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp

_static = functools.partial(dataclasses.field, metadata={"static": True})


class Pattern(NamedTuple):
  """What an attention rule states: which distances a query may look across.

  A key is seen if all that is stated holds, or if it is in the prefix.

  Attributes:
    causal: only keys whose index is at most the query's.
    window: only the `window` nearest of these, the query's own among them.
    radius: only keys at most this far away, on both sides.
    prefix: keys of the prefix are seen whatever their index.
  """

  causal: bool = False
  window: int | None = None
  radius: int | None = None
  prefix: bool = False

  @property
  def name(self) -> str:
    """Returns "full", "causal", "window", "local" or "prefix"."""
    if self.prefix:
      return "prefix"
    if self.window is not None:
      return "window"
    if self.radius is not None:
      return "local"
    return "causal" if self.causal else "full"

  def within(self, least, greatest):
    """Tells whether some distance from least to greatest is allowed.

    Args:
      least, greatest: relative distances, key minus query.

    Returns:
      bool, or None where every distance is allowed. The prefix is left aside.
    """
    limits = []
    if self.causal or self.window is not None:
      limits.append(least <= 0)
    if self.window is not None:
      limits.append(greatest > -self.window)
    if self.radius is not None:
      limits.append((greatest >= -self.radius) & (least <= self.radius))
    return functools.reduce(operator.and_, limits) if limits else None

  def reach(self, first: int, end: int, keys: int) -> tuple[int, int]:
    """Returns the first key, and the end, that queries may see.

    Args:
      first, end: the queries' indices, [first, end).
      keys: the number of all keys.
    """
    start, stop = 0, keys
    if self.prefix:
      return start, stop
    if self.causal or self.window is not None:
      stop = min(stop, end)
    if self.window is not None:
      start = max(start, first + 1 - self.window)
    if self.radius is not None:
      start, stop = (
        max(start, first - self.radius),
        min(stop, end + self.radius),
      )
    return start, stop


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Visibility:
  """Which of S keys each of T queries may attend to.

  A query sees a key if the pattern allows it and both have the same segment,
  which is not 0. All arrays have B or 1 rows.

  Attributes:
    query_segment_BT, key_segment_BS: documents of a packed row, int32; 0 is
      padding.
    query_index_BT, key_index_BS: positions in the row, int32.
    pattern: what the rule states, or None if it has only a mask.
    prefix_BS: bool, the keys of the prefix; None unless the pattern has one.
    mask_BTS: bool, all of this in one array; None unless a kernel reads it.
  """

  query_segment_BT: jax.Array
  key_segment_BS: jax.Array
  query_index_BT: jax.Array
  key_index_BS: jax.Array
  pattern: Pattern | None = _static(default=None)
  prefix_BS: jax.Array | None = None
  mask_BTS: jax.Array | None = None

  def sees_any(self) -> jax.Array:
    """Returns which queries see a key at all, bool [B or 1, T].

    Only of patterns: a token sees itself in each, so that a query sees nothing
    if it is padding, or if a source has no token of its document.
    """
    assert self.pattern is not None
    real_BT = self.query_segment_BT != 0
    if self.query_segment_BT is self.key_segment_BS:
      return real_BT
    return real_BT & _is_in(self.query_segment_BT, self.key_segment_BS)


def _is_in(x_BT: jax.Array, y_BS: jax.Array) -> jax.Array:
  """Returns which elements of x are in the same row of y, without [T, S]."""
  rows = jnp.broadcast_shapes(x_BT.shape[:1], y_BS.shape[:1])
  x_BT = jnp.broadcast_to(x_BT, rows + x_BT.shape[1:])
  sorted_BS = jnp.sort(jnp.broadcast_to(y_BS, rows + y_BS.shape[1:]), axis=1)
  place_BT = jax.vmap(jnp.searchsorted)(sorted_BS, x_BT)
  return jnp.take_along_axis(sorted_BS, place_BT, axis=1, mode="clip") == x_BT
