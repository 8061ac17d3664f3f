"""Flash attention's passes for GPUs, by Pallas and Triton.

A program has one block of queries, or of keys, and goes through those blocks of
the others that may hold a visible logit. All sums stay in registers: nothing is
added up by atomics, and a result is the same from run to run.

The bias by distance is looked up in the vector of diagonals. Its gradient is a
pass of its own. Blocks of logits as far from the diagonal have the same bias,
so that one program adds up all of them, and only their sum by diagonals:

    blocks of     keys      0   1   2
    queries 0               0  +1  +2
            1              -1   0  +1      five programs, for -2, -1, 0, 1, 2
            2              -2  -1   0
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from t5x_lite.nn.kernels import flash_blocks, flash_plan
from t5x_lite.nn.kernels.flash_blocks import HIDDEN
from t5x_lite.nn.kernels.flash_plan import Plan


def forward(plan: Plan, q, k, v, diagonals: tuple, codes: tuple):
  """Returns the mixed values, [B, N, T, H], and the logsumexp, [B, N, T].

  Args:
    plan: of the kernel.
    q, k, v: [B, N, T, H] and [B, K, S, H]. Lengths are multiples of the blocks,
      H is a power of 2.
    diagonals: the bias by distance, [N, 1, T + S], or nothing.
    codes: of queries [B, T] and keys [B, S], see `flash_blocks.visible`.
  """
  logsumexp = jax.ShapeDtypeStruct(q.shape[:3], jnp.float32)
  return _call(
    _flash_forward,
    plan,
    (q.shape[2] // plan.queries, *q.shape[1::-1]),
    _query_major(plan, q, k, v, diagonals, codes),
    [(x, _spec(x, plan.queries)) for x in (q, logsumexp)],
  )


def _flash_forward(
  q, k, v, diagonals, query_code, key_code, first, last, out, logsumexp, *, plan
):
  i, length = pl.program_id(0), pl.num_programs(0) * plan.queries
  queries, code = q[...], query_code[...]

  def step(j, sums):
    top, total, mixed = sums
    here = pl.ds(j * plan.keys, plan.keys)
    capped = flash_blocks.cap(flash_blocks.products(queries, k[here]), plan)
    logits = _logits(
      plan, i, j, capped, diagonals, length, code, key_code[here]
    )
    higher = jnp.maximum(top, jnp.max(logits, axis=1))
    decay = jnp.exp(top - higher)
    weights = jnp.exp(logits - higher[:, None])
    mixed = mixed * decay[:, None] + flash_blocks.mix(weights, v[here])
    return higher, total * decay + jnp.sum(weights, axis=1), mixed

  start = (
    jnp.full(plan.queries, HIDDEN, jnp.float32),
    jnp.zeros(plan.queries, jnp.float32),
    jnp.zeros(queries.shape, jnp.float32),
  )
  top, total, mixed = lax.fori_loop(first[i], last[i] + 1, step, start)
  sees = top > HIDDEN / 2
  total = jnp.where(sees, total, 1)
  share = jnp.where(sees, 1 / total, 0)
  out[...] = (mixed * share[:, None]).astype(out.dtype)
  # Of a query that sees nothing so large that the backward passes find no
  # probability above 0.
  logsumexp[...] = jnp.where(sees, top + jnp.log(total), -HIDDEN)


def backward(
  plan: Plan, q, k, v, diagonals: tuple, codes: tuple, *, g, logsumexp, inner
):
  """Returns the gradients of queries, keys, values and diagonals.

  Args:
    plan, q, k, v, diagonals, codes: as of `forward`.
    g: gradient of the mixed values, [B, N, T, H].
    logsumexp: float32 [B, N, T], of the logits.
    inner: float32 [B, N, T], the mean of the gradients of the probabilities
      under the probabilities.
  """
  b, n, t, _ = q.shape
  num_kv_heads, s = k.shape[1:3]
  group, by_query = n // num_kv_heads, (g, logsumexp, inner)
  (dq,) = _call(
    _flash_backward_queries,
    plan,
    (t // plan.queries, n, b),
    _query_major(plan, q, k, v, diagonals, codes)
    + [(x, _spec(x, plan.queries)) for x in by_query],
    [(q, _spec(q, plan.queries))],
  )
  dk, dv = _call(
    _flash_backward_keys,
    plan,
    (s // plan.keys, num_kv_heads, b),
    [(q, _spec(q, heads=group))]
    + [(x, _spec(x, plan.keys)) for x in (k, v)]
    + _shared(plan, diagonals, codes, heads=group, keys=plan.keys)
    + [(x, _spec(x, heads=group)) for x in by_query],
    [(x, _spec(x, plan.keys)) for x in (k, v)],
  )
  if not diagonals:
    return dq, dk, dv, ()
  offsets = (t + s) // plan.keys - 1
  shape = (b, n, offsets, plan.queries, plan.keys)
  tiles = jax.ShapeDtypeStruct(shape, jnp.float32)
  (tiles,) = _call(
    _flash_backward_diagonals,
    plan,
    (offsets, n, b),
    [(q, _spec(q))]
    + [(x, _spec(x, head=lambda h: lax.div(h, group))) for x in (k, v)]
    + _shared(plan, diagonals, codes)
    + [(x, _spec(x)) for x in by_query],
    [(tiles, _spec(tiles, 1))],
  )
  return dq, dk, dv, (_sum_diagonals(tiles.sum(axis=0))[:, None],)


def _flash_backward_queries(
  q, k, v, diagonals, query_code, key_code, first, last, g, logsumexp, inner,
  dq, *, plan,
):  # fmt: skip
  i, length = pl.program_id(0), pl.num_programs(0) * plan.queries
  queries, code, gradients = q[...], query_code[...], g[...]
  normalizer, mean = logsumexp[...][:, None], inner[...][:, None]

  def step(j, total):
    here = pl.ds(j * plan.keys, plan.keys)
    keys = k[here]
    capped = flash_blocks.cap(flash_blocks.products(queries, keys), plan)
    logits = _logits(
      plan, i, j, capped, diagonals, length, code, key_code[here]
    )
    dprobs = flash_blocks.products(gradients, v[here])
    dlogits = jnp.exp(logits - normalizer) * (dprobs - mean)
    dproducts = flash_blocks.uncap(dlogits, capped, plan)
    return total + flash_blocks.mix(dproducts, keys)

  start = jnp.zeros(queries.shape, jnp.float32)
  total = lax.fori_loop(first[i], last[i] + 1, step, start)
  dq[...] = total.astype(dq.dtype)


def _flash_backward_keys(
  q, k, v, diagonals, query_code, key_code, first, last, g, logsumexp, inner,
  dk, dv, *, plan,
):  # fmt: skip
  j, (heads, length, _) = pl.program_id(0), q.shape
  keys, values, code = k[...], v[...], key_code[...]

  def step(head, i, sums):
    dkeys, dvalues = sums
    here = pl.ds(i * plan.queries, plan.queries)
    queries, gradients = q[head, here], g[head, here]
    capped = flash_blocks.cap(flash_blocks.products(keys, queries), plan)
    logits = _logits(
      plan, i, j, capped, diagonals, length,
      query_code[here], code, head=head, keys_down=True,
    )  # fmt: skip
    probs = jnp.exp(logits - logsumexp[head, here][None])
    dprobs = flash_blocks.products(values, gradients)
    dlogits = probs * (dprobs - inner[head, here][None])
    dproducts = flash_blocks.uncap(dlogits, capped, plan)
    return (
      dkeys + flash_blocks.mix(dproducts, queries),
      dvalues + flash_blocks.mix(probs, gradients),
    )

  def one_head(head, sums):
    return lax.fori_loop(
      first[j], last[j] + 1, functools.partial(step, head), sums
    )

  zeros = jnp.zeros(keys.shape, jnp.float32)
  dkeys, dvalues = lax.fori_loop(0, heads, one_head, (zeros, zeros))
  dk[...], dv[...] = dkeys.astype(dk.dtype), dvalues.astype(dv.dtype)


def _flash_backward_diagonals(
  q, k, v, diagonals, query_code, key_code, first, last, g, logsumexp, inner,
  tile, *, plan,
):  # fmt: skip
  length = q.shape[0]
  query_blocks, key_blocks = length // plan.queries, k.shape[0] // plan.keys
  offset = pl.program_id(0) - (query_blocks - 1)

  def add(i, j, total):
    rows, columns = (
      pl.ds(i * plan.queries, plan.queries),
      pl.ds(j * plan.keys, plan.keys),
    )
    capped = flash_blocks.cap(flash_blocks.products(q[rows], k[columns]), plan)
    logits = _logits(
      plan, i, j, capped, diagonals, length, query_code[rows], key_code[columns]
    )
    dprobs = flash_blocks.products(g[rows], v[columns])
    probs = jnp.exp(logits - logsumexp[rows][:, None])
    return total + probs * (dprobs - inner[rows][:, None])

  def step(i, total):
    j = i + offset
    return lax.cond(
      (first[i] <= j) & (j <= last[i]),
      functools.partial(add, i, j),
      lambda total: total,
      total,
    )

  start = jnp.zeros((plan.queries, plan.keys), jnp.float32)
  tile[0] = lax.fori_loop(
    jnp.maximum(0, -offset),
    jnp.minimum(query_blocks, key_blocks - offset),
    step,
    start,
  )


def _logits(
  plan, i, j, capped, diagonals, length, query_code, key_code, *,
  head=0, keys_down=False,
):  # fmt: skip
  """Returns the logits of block (i, j), with bias and with those hidden.

  Args:
    plan, i, j, capped, query_code, key_code, keys_down: see
      `flash_blocks.logits`.
    diagonals: references to the bias of all diagonals by head, or nothing.
    head: which of the heads that the program has.
    length: the number of queries, entry `length` of which is the main diagonal.
  """
  for x in diagonals:
    distance = flash_blocks.distances(plan, i, j, keys_down=keys_down)
    capped = capped + x[head, distance + length]
  seen = flash_blocks.visible(
    plan, i, j, query_code, key_code, keys_down=keys_down
  )
  return jnp.where(seen, capped, HIDDEN)


def _sum_diagonals(tiles_NOQQ: jax.Array) -> jax.Array:
  """Sums the diagonals of the sums of blocks: float32 [N, T + S].

  Args:
    tiles_NOQQ: sums over the blocks at each of O distances from the diagonal;
      the first belongs to the last block of queries and the first of keys.
  """
  n, offsets, size, _ = tiles_NOQQ.shape
  # Read as rows that are one shorter, each row moves to the right by one place
  # more than the one before: with the last row first, a diagonal is a column.
  padded = jnp.pad(tiles_NOQQ[:, :, ::-1], ((0, 0),) * 3 + ((0, size),))
  flat = padded.reshape(n, offsets, 2 * size * size)[..., :-size]
  sums = flat.reshape(n, offsets, size, 2 * size - 1).sum(axis=2)
  # Entry e of 2 size: of keys e - size places to the right in their block.
  low, high = jnp.split(jnp.pad(sums, ((0, 0), (0, 0), (1, 0))), 2, axis=2)
  ends = jnp.zeros((n, 1, size))
  total = jnp.concatenate([low, ends], axis=1)
  total += jnp.concatenate([ends, high], axis=1)
  return total.reshape(n, -1)


def _call(kernel, plan, grid, inputs, outputs):
  """Runs a kernel on arrays, each given with its block."""
  arrays, in_specs = zip(*inputs, strict=True)
  shapes, out_specs = zip(*outputs, strict=True)
  queries = arrays[0]
  row_bytes = queries.shape[-1] * queries.dtype.itemsize
  return pl.pallas_call(
    functools.partial(kernel, plan=plan),
    out_shape=tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in shapes),
    grid=grid,
    in_specs=in_specs,
    out_specs=out_specs,
    # By XLA's compiled programs for an H100: no registers spill up to head dim
    # 128, and wider rows twice over do not fit into an A100's shared memory.
    compiler_params=plgpu.CompilerParams(
      num_warps=4 if row_bytes <= 128 else 8,
      num_stages=2 if row_bytes <= 256 else 1,
    ),
    interpret=plan.interpret,
    name=kernel.__name__.strip("_"),
  )(*arrays)


def _spec(x, size=None, *, heads=None, head=lambda h: h) -> pl.BlockSpec:
  """Returns what a program has of an array [B, heads, tokens, ...].

  Args:
    x: the array. The grid is (blocks, heads, B).
    size: of blocks of tokens; None: a program has all tokens.
    heads: a number of heads, or None for one.
    head: which of them a program has, by its number of the head.
  """
  rest = x.shape[3:]
  return pl.BlockSpec(
    (None, heads, size or x.shape[2], *rest),
    lambda i, h, b: (b, head(h), i if size else 0, *(0 for _ in rest)),
  )


def _query_major(plan, q, k, v, diagonals, codes) -> list:
  """Returns the inputs of programs that have one block of queries."""
  group = q.shape[1] // k.shape[1]
  return [
    (q, _spec(q, plan.queries)),
    *((x, _spec(x, head=lambda h: lax.div(h, group))) for x in (k, v)),
    *_shared(plan, diagonals, codes, queries=plan.queries),
  ]


def _shared(
  plan, diagonals, codes, *, heads=None, queries=None, keys=None
) -> list:
  """Returns the inputs that tell what is visible, and the bias.

  Args:
    plan, diagonals, codes: as of `forward`.
    heads, queries, keys: of which a program has a block; None: one head, all
      tokens.
  """
  blocks = flash_plan.visible_blocks(plan, *codes)
  ends = flash_plan.first_and_last(blocks.swapaxes(1, 2) if keys else blocks)
  by_row = [x[:, None] for x in codes]
  by_row += [x.reshape(len(blocks), 1, -1) for x in ends]
  specs = [
    _spec(x, size, head=lambda h: 0)
    for x, size in zip(by_row, (queries, keys, None, None), strict=True)
  ]
  by_head = tuple(
    pl.BlockSpec((heads or 1, None, x.shape[2]), lambda i, h, b: (h, 0, 0))
    for x in diagonals
  )
  return [(diagonals, by_head), *zip(by_row, specs, strict=True)]
