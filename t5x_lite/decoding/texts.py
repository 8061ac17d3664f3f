"""Texts: the tokens of each row so far, for what depends on them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Texts(NamedTuple):
  """Holds rows of different lengths, each from column 0 on.

    tokens_BS  7 8 9 . .     length_B  3
               4 5 6 7 8               5

  tokens_BS: int32; what stands beyond a row's length is anything.
  length_B: int32.
  """

  tokens_BS: jax.Array
  length_B: jax.Array

  def repeat(self, times: int) -> "Texts":
    """Returns every row `times` times in a row."""
    return Texts(*(jnp.repeat(x, times, axis=0) for x in self))

  def continued(self, tokens_BT: jax.Array, step: jax.Array) -> "Texts":
    """Returns the rows with `step` of the T tokens after them."""
    both_BS = jnp.concatenate([self.tokens_BS, tokens_BT], axis=1)
    columns_S = jnp.arange(both_BS.shape[1])
    moved_BS = columns_S + self.tokens_BS.shape[1] - self.length_B[:, None]
    places_BS = jnp.where(
      columns_S < self.length_B[:, None], columns_S, moved_BS
    )
    places_BS = jnp.minimum(places_BS, both_BS.shape[1] - 1)
    joined_BS = jnp.take_along_axis(both_BS, places_BS, axis=1)
    return Texts(joined_BS, self.length_B + step)

  def is_text_BS(self) -> jax.Array:
    """Marks the columns within each row's length."""
    return jnp.arange(self.tokens_BS.shape[1]) < self.length_B[:, None]

  def suffix(self, size: int) -> jax.Array:
    """Returns the last `size` tokens, [B, size]; -1 before a row's start."""
    places_BN = self.length_B[:, None] + jnp.arange(-size, 0)
    found_BN = jnp.take_along_axis(
      self.tokens_BS, jnp.maximum(places_BN, 0), axis=1
    )
    return jnp.where(places_BN >= 0, found_BN, -1)


def write_at(
  into_BN: jax.Array, new_BT: jax.Array, start_B: jax.Array, count_B: jax.Array
) -> jax.Array:
  """Returns rows with the first `count_B` of T numbers written at `start_B`."""
  place_BN = jnp.arange(into_BN.shape[1]) - start_B[:, None]
  new_BN = jnp.take_along_axis(new_BT, place_BN, axis=1, mode="clip")
  is_new_BN = (place_BN >= 0) & (place_BN < jnp.reshape(count_B, (-1, 1)))
  return jnp.where(is_new_BN, new_BN, into_BN)


def mark(
  marked_BV: jax.Array, tokens_BN: jax.Array, here_BN: jax.Array
) -> jax.Array:
  """Returns bool [B, V] with the tokens marked where `here_BN` holds."""
  vocab_size = marked_BV.shape[1]
  rows_B1 = jnp.arange(marked_BV.shape[0])[:, None]
  tokens_BN = jnp.where(here_BN, tokens_BN, vocab_size)
  return marked_BV.at[rows_B1, tokens_BN].set(True, mode="drop")


def without(logits_BV: jax.Array, removed_BV: jax.Array) -> jax.Array:
  """Returns the logits with -inf for the tokens that are removed."""
  return jnp.where(removed_BV, -jnp.inf, logits_BV)
