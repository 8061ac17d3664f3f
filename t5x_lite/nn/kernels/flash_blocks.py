"""One block of queries against one block of keys, for the flash kernels.

The forward and the backward passes share what the logits of a block are: which
of them are visible, and their bias by relative distance. A block of logits
has queries down and keys across, or keys down and queries across where sums are
over queries (the gradients of keys and values).

A bias by distance is the same along each diagonal of the logits, so that the
kernels read it from a vector of T + S entries. The bias of a block is a window
of this vector, moved by one place for each row:

    window              bias of the block
    a b c d e f         d e f
                        c d e
                        b c d
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from t5x_lite.nn.kernels.flash_plan import LANES, Plan

# Finite, so that a query that sees nothing stays finite too.
HIDDEN = -1e30

_ROWS_BY_ROWS = (((1,), (1,)), ((), ()))


def products(rows_RH: jax.Array, columns_CH: jax.Array) -> jax.Array:
  """Returns the float32 products of each row with each column, [R, C]."""
  return lax.dot_general(
    rows_RH, columns_CH, _ROWS_BY_ROWS, preferred_element_type=jnp.float32
  )


def mix(weights_RC: jax.Array, values_CH: jax.Array) -> jax.Array:
  """Returns the float32 sums of values by the weights of each row, [R, H]."""
  return jnp.dot(
    weights_RC.astype(values_CH.dtype),
    values_CH,
    preferred_element_type=jnp.float32,
  )


def cap(logits: jax.Array, plan: Plan) -> jax.Array:
  """Applies the soft cap, where there is one."""
  if plan.soft_cap is None:
    return logits
  return plan.soft_cap * jnp.tanh(logits / plan.soft_cap)


def uncap(grads: jax.Array, capped: jax.Array, plan: Plan) -> jax.Array:
  """Returns the gradients of the logits from those of the capped ones."""
  if plan.soft_cap is None:
    return grads
  return grads * (1 - (capped / plan.soft_cap) ** 2)


def logits(
  plan: Plan,
  i,
  j,
  capped: jax.Array,
  diagonals: tuple,
  window: pl.Slice,
  query_code: jax.Array,
  key_code: jax.Array,
  *,
  keys_down: bool = False,
) -> jax.Array:
  """Returns the logits of block (i, j), with bias and with those hidden.

  Args:
    plan: of the kernel.
    i, j: numbers of the blocks of queries and keys.
    capped: the products of queries and keys under the soft cap.
    diagonals: reference to the bias of all diagonals, or nothing.
    window: those of the block.
    query_code, key_code: see `visible`.
    keys_down: whether keys are the rows of the block.
  """
  for x in diagonals:
    capped += spread_diagonals(x[:, window], *capped.shape)
  seen = visible(plan, i, j, query_code, key_code, keys_down=keys_down)
  return jnp.where(seen, capped, HIDDEN)


def visible(
  plan: Plan, i, j, query_code, key_code, *, keys_down: bool
) -> jax.Array:
  """Returns which logits of block (i, j) are visible, bool.

  Args:
    plan: of the kernel.
    i, j: numbers of the blocks of queries and keys.
    query_code: int32 [queries], twice the segment.
    key_code: int32 [keys], twice the segment, and 1 more for a key of the
      prefix.
    keys_down: whether keys are the rows of the block.
  """
  query_axis, key_axis = (1, 0) if keys_down else (0, 1)
  query_segment = jnp.expand_dims(query_code, key_axis) >> 1
  key_code = jnp.expand_dims(key_code, query_axis)
  # Padding, segment 0, is equal to no query's.
  key_segment = jnp.where(key_code > 1, key_code >> 1, -1)
  seen = query_segment == key_segment
  distance = distances(plan, i, j, keys_down=keys_down)
  allowed = plan.pattern.within(distance, distance)
  if allowed is None:
    return seen
  return seen & (allowed | (key_code & 1 == 1))


def distances(plan: Plan, i, j, *, keys_down: bool) -> jax.Array:
  """Returns the distance, key minus query, of each logit of block (i, j)."""
  query_axis, key_axis = (1, 0) if keys_down else (0, 1)
  shape = (plan.keys, plan.queries) if keys_down else (plan.queries, plan.keys)
  distance = lax.broadcasted_iota(jnp.int32, shape, key_axis)
  distance -= lax.broadcasted_iota(jnp.int32, shape, query_axis)
  return distance + (j * plan.keys - i * plan.queries)


def window(row_block, rows: int, column_block, columns: int, blocks: int):
  """Returns where the diagonals of a block are in the vector of diagonals.

  Args:
    row_block, column_block: numbers of the block.
    rows, columns: its size.
    blocks: number of blocks of rows; entry x of the vector belongs to columns
      x - blocks * rows places to the right of their row.
  """
  start = column_block * columns + (blocks - row_block - 1) * rows
  return pl.ds(pl.multiple_of(start, LANES), rows + columns)


def spread_diagonals(window: jax.Array, rows: int, columns: int) -> jax.Array:
  """Returns the block whose diagonals hold the entries of a window.

  Args:
    window: float32 [1, rows + columns].
    rows, columns: of the block, multiples of 128.

  Returns:
    [rows, columns], window[rows + column - row] at each place.
  """
  base = window
  while base.shape[0] < LANES:
    moved = pltpu.roll(base, base.shape[0], 1)
    base = jnp.concatenate([base, moved])
  # The rows after the first 128 move by whole registers, which is free.
  return jnp.concatenate(
    [base[:, start : start + columns] for start in range(rows, 0, -LANES)]
  )


def sum_diagonals(block: jax.Array) -> jax.Array:
  """Sums each diagonal of a block, the transpose of `spread_diagonals`.

  Returns:
    [1, rows + columns], the sum of the places of each entry of the window.
  """
  rows, columns = block.shape
  zeros = jnp.zeros((LANES, rows), block.dtype)
  total = 0
  for row in range(0, rows, LANES):
    wide = jnp.concatenate([block[row : row + LANES], zeros], axis=1)
    total += pltpu.roll(wide, rows - row, 1)
  # Row r is still r places too far to the right: the lower half moves, and is
  # added to the upper one, until one row is left.
  half = LANES // 2
  while half:
    moved = pltpu.roll(total[half:], rows + columns - half, 1)
    total = total[:half] + moved
    half //= 2
  return total
