"""How the flash kernels cut attention into blocks, and what that costs."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl

from t5x_lite.nn.kernels.visibility import Pattern

# A float32 block of 512 x 512 is 1 MiB, and the backward passes hold about six
# of them: well below the 16 MiB of VMEM that a kernel gets on every TPU.
LARGEST_BLOCK = 512

# The width of a TPU's vector registers, of which blocks are multiples.
LANES = 128


@dataclasses.dataclass(frozen=True)
class Plan:
  """What the kernels know of the attention when they are compiled.

  Attributes:
    queries, keys: tokens in a block.
    pattern: of the attention rule.
    soft_cap: c in c * tanh(logits / c), or None.
    gpu: whether the passes are a GPU's rather than a TPU's.
    interpret: whether to run as plain operations, without either.
  """

  queries: int
  keys: int
  pattern: Pattern
  soft_cap: float | None
  gpu: bool
  interpret: bool


def block_size(length: int) -> int:
  """Returns the block in which a length takes the least time.

  As compiled for a v5p, the three kernels take 1,837, 3,127, 4,981 and 6,528
  cycles for blocks of side 128, 256, 384 and 512: in proportion to the side,
  since small blocks leave the matrix units waiting.
  """

  def cycles(size):
    padded = length + -length % size
    return padded**2 / size

  return min(range(LANES, LARGEST_BLOCK + 1, LANES), key=cycles)


def gpu_block_size(row_bytes: int) -> int:
  """Returns the block of a GPU, for queries and keys of so many bytes.

  Products of fewer than 64 rows do not use the matrix units of Hopper, and
  wider blocks do not fit into an A100's 163 KiB of shared memory.
  """
  return min(64, max(16, 2**15 // row_bytes))


def visible_blocks(
  plan: Plan, query_code_BT: jax.Array, key_code_BS: jax.Array
) -> jax.Array:
  """Finds the blocks that may hold a visible logit.

  Packed segments are told apart by their least and greatest number in a block.

  Returns:
    bool [B, blocks of queries, blocks of keys].
  """
  query_least, query_greatest = _segments(query_code_BT, plan.queries)
  key_least, key_greatest = _segments(key_code_BS, plan.keys)
  meet = query_least[:, :, None] <= key_greatest[:, None]
  meet &= key_least[:, None] <= query_greatest[:, :, None]
  allowed = _pattern_blocks(plan, query_code_BT.shape[1], key_code_BS.shape[1])
  prefix = (key_code_BS & 1).reshape(*key_least.shape, -1).any(axis=-1)
  return meet & (allowed | prefix[:, None])


def _pattern_blocks(plan, length, key_length):
  """Returns which blocks the pattern does not rule out, its prefix aside."""
  first_query = np.arange(0, length, plan.queries)[:, None]
  first_key = np.arange(0, key_length, plan.keys)
  offset = first_key - first_query
  least, greatest = offset - plan.queries + 1, offset + plan.keys - 1
  allowed = plan.pattern.within(least, greatest)
  return np.ones(offset.shape, bool) if allowed is None else allowed


def _segments(code_BX, size):
  """Returns the least and the greatest segment of each block.

  Those of a block that is all padding make no range: the least is the greater.
  """
  segment = (code_BX >> 1).reshape(code_BX.shape[0], -1, size)
  greatest = segment.max(axis=-1)
  none = jnp.iinfo(jnp.int32).max
  return jnp.where(segment > 0, segment, none).min(axis=-1), greatest


def first_and_last(blocks_BXY: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Finds the first and last True of each row, 0 and -1 where there is none.

  Returns:
    two int32 [B * X], as Pallas prefetches them.
  """
  count = blocks_BXY.shape[-1]
  number = jnp.arange(count, dtype=jnp.int32)
  first = jnp.where(blocks_BXY, number, count).min(axis=-1)
  last = jnp.where(blocks_BXY, number, -1).max(axis=-1)
  return jnp.where(last < 0, 0, first).reshape(-1), last.reshape(-1)


class Specs(NamedTuple):
  """Blocks of the arrays in a grid of (row, head, queries, keys).

  Attributes:
    inputs: of codes of queries and keys, diagonals, queries, keys, values.
    queries: of an array like the queries, [B, N, T, H].
    statistics: of a number per query, [B, N, 1, T].
  """

  inputs: tuple
  queries: pl.BlockSpec
  statistics: pl.BlockSpec


def query_major_specs(plan: Plan, q_BNTH, k_BKSH, diagonals: tuple) -> Specs:
  """Returns the blocks where all keys pass by each block of queries.

  Blocks of keys without a visible logit are not fetched: their steps name the
  nearest block that has one, and that is in VMEM already.
  """
  _, n, t, h = q_BNTH.shape
  group, blocks = n // k_BKSH.shape[1], t // plan.queries

  def key_block(b, i, j, first, last):
    row = b * blocks + i
    return jnp.maximum(jnp.minimum(j, last[row]), first[row])

  def key_index(b, n, i, j, *ends):
    return b, lax.div(n, group), key_block(b, i, j, *ends), 0

  queries = pl.BlockSpec(
    (None, None, plan.queries, h), lambda b, n, i, j, *_: (b, n, i, 0)
  )
  keys = pl.BlockSpec((None, None, plan.keys, h), key_index)
  query_code = pl.BlockSpec(
    (None, 1, plan.queries), lambda b, n, i, j, *_: (b, 0, i)
  )
  key_code = pl.BlockSpec(
    (None, 1, plan.keys),
    lambda b, n, i, j, *ends: (b, 0, key_block(b, i, j, *ends)),
  )
  whole = tuple(
    pl.BlockSpec((None, *x.shape[1:]), lambda b, n, i, j, *_: (n, 0, 0))
    for x in diagonals
  )
  return Specs(
    inputs=(query_code, key_code, whole, queries, keys, keys),
    queries=queries,
    statistics=pl.BlockSpec(
      (None, None, 1, plan.queries), lambda b, n, i, j, *_: (b, n, 0, i)
    ),
  )


def cost(plan: Plan, q_BNTH, k_BKSH, *, products: int) -> pl.CostEstimate:
  """Returns what a pass costs, segments and prefixes aside.

  Args:
    plan: of the kernel.
    q_BNTH, k_BKSH: queries and keys.
    products: number of matrix products for each block of logits: 2 forward, 3
      for the gradients of queries and 4 for those of keys and values.
  """
  b, n, t, h = q_BNTH.shape
  blocks = int(_pattern_blocks(plan, t, k_BKSH.shape[2]).sum())
  logits = b * n * blocks * plan.queries * plan.keys
  fetched = b * n * blocks * 2 * plan.keys * h + 2 * q_BNTH.size
  return pl.CostEstimate(
    flops=2 * products * logits * h,
    transcendentals=logits,
    bytes_accessed=fetched * q_BNTH.dtype.itemsize,
  )
