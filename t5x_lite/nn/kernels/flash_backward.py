"""The backward passes of flash attention.

Algorithm 2, Dao 2023, arXiv:2307.08691, in two passes, so that each sums in
VMEM: one of all keys by each block of queries, for the gradients of queries and
of the bias, and one of all queries by each block of keys, for those of keys and
values.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from t5x_lite.nn.kernels import flash_blocks, flash_plan
from t5x_lite.nn.kernels.flash_plan import Plan


def backward(
  plan: Plan, q, k, v, diagonals: tuple, codes: tuple, *, g, logsumexp, inner
):
  """Returns the gradients of queries, keys, values and diagonals.

  Args:
    plan: of the kernel.
    q, k, v, diagonals, codes: what attention was computed from.
    g: gradient of the mixed values, [B, N, T, H].
    logsumexp: float32 [B, N, T], of the logits.
    inner: float32 [B, N, T], the mean of the gradients of the probabilities
      under the probabilities.
  """
  inputs = (*(code[:, None] for code in codes), diagonals, q, k, v, g)
  statistics = (logsumexp[:, :, None], inner[:, :, None])
  blocks = flash_plan.visible_blocks(plan, *codes)
  key_ends = flash_plan.first_and_last(blocks)
  query_ends = flash_plan.first_and_last(blocks.swapaxes(1, 2))
  dq, ddiagonals = _queries(plan, key_ends, inputs, statistics)
  dk, dv = _keys_and_values(plan, query_ends, inputs, statistics)
  return dq, dk, dv, ddiagonals


def _queries(plan, key_ends, inputs, statistics):
  """Returns the gradients of queries and diagonals."""
  _, _, diagonals, q, k, *_ = inputs
  b, n, t, h = q.shape
  specs = flash_plan.query_major_specs(plan, q, k, diagonals)
  out = [jax.ShapeDtypeStruct(q.shape, q.dtype)]
  out_specs = [specs.queries]
  for x in diagonals:
    out.append(jax.ShapeDtypeStruct((b, *x.shape), jnp.float32))
    out_specs.append(
      pl.BlockSpec((None, None, *x.shape[1:]), lambda b, n, *_: (b, n, 0, 0))
    )
  dq, *ddiagonals = pl.pallas_call(
    functools.partial(_queries_kernel, plan=plan),
    out_shape=out,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=(b, n, t // plan.queries, k.shape[2] // plan.keys),
      in_specs=(*specs.inputs, specs.queries, *2 * [specs.statistics]),
      out_specs=out_specs,
      scratch_shapes=[pltpu.VMEM((plan.queries, h), jnp.float32)],
    ),
    # All blocks of a head add to the gradient of its diagonals.
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel",) * 2 + ("arbitrary",) * 2
    ),
    cost_estimate=flash_plan.cost(plan, q, k, products=3),
    interpret=plan.interpret,
    name="flash_backward_queries",
  )(*key_ends, *inputs, *statistics)
  return dq, tuple(x.sum(axis=0) for x in ddiagonals)


def _queries_kernel(
  first, last, query_code, key_code, diagonals, q, k, v, g, logsumexp, inner,
  dq, *rest, plan,
):  # fmt: skip
  *ddiagonals, total = rest
  i, j = pl.program_id(2), pl.program_id(3)
  row = pl.program_id(0) * pl.num_programs(2) + i

  @pl.when((i == 0) & (j == 0))
  def start_head():
    for x in ddiagonals:
      x[...] = jnp.zeros_like(x)

  @pl.when(j == 0)
  def start():
    total[...] = jnp.zeros_like(total)

  window = flash_blocks.window(
    i, plan.queries, j, plan.keys, pl.num_programs(2)
  )

  @pl.when((first[row] <= j) & (j <= last[row]))
  def step():
    capped = flash_blocks.cap(flash_blocks.products(q[...], k[...]), plan)
    logits = flash_blocks.logits(
      plan, i, j, capped, diagonals, window, query_code[0], key_code[0]
    )
    probs = jnp.exp(logits - logsumexp[0][:, None])
    dprobs = flash_blocks.products(g[...], v[...])
    dlogits = probs * (dprobs - inner[0][:, None])
    for x in ddiagonals:
      x[:, window] += flash_blocks.sum_diagonals(dlogits)
    dproducts = flash_blocks.uncap(dlogits, capped, plan)
    total[...] += flash_blocks.mix(dproducts, k[...])

  @pl.when(j == pl.num_programs(3) - 1)
  def end():
    dq[...] = total[...].astype(dq.dtype)


def _keys_and_values(plan, query_ends, inputs, statistics):
  """Returns the gradients of keys and values."""
  query_code, key_code, diagonals, q, k, v, g = inputs
  b, n, t, h = q.shape
  _, num_kv_heads, s, _ = k.shape
  group, key_blocks = n // num_kv_heads, s // plan.keys
  # By keys to the left of their query rather than to its right.
  diagonals = tuple(jnp.roll(x[..., ::-1], 1, axis=-1) for x in diagonals)

  def head(k, g):
    return k * group + g

  def query_block(b, j, i, first, last):
    row = b * key_blocks + j
    return jnp.maximum(jnp.minimum(i, last[row]), first[row])

  keys = pl.BlockSpec(
    (None, None, plan.keys, h), lambda b, k, j, g, i, *_: (b, k, j, 0)
  )
  queries = pl.BlockSpec(
    (None, None, plan.queries, h),
    lambda b, k, j, g, i, *ends: (
      b, head(k, g), query_block(b, j, i, *ends), 0,
    ),
  )  # fmt: skip
  statistic = pl.BlockSpec(
    (None, None, 1, plan.queries),
    lambda b, k, j, g, i, *ends: (
      b, head(k, g), 0, query_block(b, j, i, *ends),
    ),
  )  # fmt: skip
  in_specs = (
    pl.BlockSpec(
      (None, 1, plan.queries),
      lambda b, k, j, g, i, *ends: (b, 0, query_block(b, j, i, *ends)),
    ),
    pl.BlockSpec((None, 1, plan.keys), lambda b, k, j, g, i, *_: (b, 0, j)),
    tuple(
      pl.BlockSpec(
        (None, *x.shape[1:]), lambda b, k, j, g, i, *_: (head(k, g), 0, 0)
      )
      for x in diagonals
    ),
    queries, keys, keys, queries, statistic, statistic,
  )  # fmt: skip
  sums = pltpu.VMEM((plan.keys, h), jnp.float32)
  return pl.pallas_call(
    functools.partial(_keys_kernel, plan=plan),
    out_shape=(
      jax.ShapeDtypeStruct(k.shape, k.dtype),
      jax.ShapeDtypeStruct(v.shape, v.dtype),
    ),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=(b, num_kv_heads, key_blocks, group, t // plan.queries),
      in_specs=in_specs,
      out_specs=(keys, keys),
      scratch_shapes=[sums, sums],
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel",) * 3 + ("arbitrary",) * 2
    ),
    cost_estimate=flash_plan.cost(plan, q, k, products=4),
    interpret=plan.interpret,
    name="flash_backward_keys",
  )(*query_ends, query_code, key_code, diagonals, q, k, v, g, *statistics)


def _keys_kernel(
  first, last, query_code, key_code, diagonals, q, k, v, g, logsumexp, inner,
  dk, dv, keys_total, values_total, *, plan,
):  # fmt: skip
  j, head, i = pl.program_id(2), pl.program_id(3), pl.program_id(4)
  row = pl.program_id(0) * pl.num_programs(2) + j

  @pl.when((head == 0) & (i == 0))
  def start():
    keys_total[...] = jnp.zeros_like(keys_total)
    values_total[...] = jnp.zeros_like(values_total)

  window = flash_blocks.window(
    j, plan.keys, i, plan.queries, pl.num_programs(2)
  )

  @pl.when((first[row] <= i) & (i <= last[row]))
  def step():
    capped = flash_blocks.cap(flash_blocks.products(k[...], q[...]), plan)
    logits = flash_blocks.logits(
      plan, i, j, capped, diagonals, window, query_code[0], key_code[0],
      keys_down=True,
    )  # fmt: skip
    probs = jnp.exp(logits - logsumexp[...])
    values_total[...] += flash_blocks.mix(probs, g[...])
    dprobs = flash_blocks.products(v[...], g[...])
    dlogits = probs * (dprobs - inner[...])
    dproducts = flash_blocks.uncap(dlogits, capped, plan)
    keys_total[...] += flash_blocks.mix(dproducts, q[...])

  @pl.when((head == pl.num_programs(3) - 1) & (i == pl.num_programs(4) - 1))
  def end():
    dk[...] = keys_total[...].astype(dk.dtype)
    dv[...] = values_total[...].astype(dv.dtype)
