"""The forward pass of flash attention on TPUs."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from t5x_lite.nn.kernels import flash_blocks, flash_plan
from t5x_lite.nn.kernels.flash_blocks import HIDDEN
from t5x_lite.nn.kernels.flash_plan import LANES, Plan


def forward(plan: Plan, q_BNTH, k_BKSH, v_BKSH, diagonals: tuple, codes: tuple):
  """Returns the mixed values, [B, N, T, H], and the logsumexp, [B, N, T].

  Args:
    plan: of the kernel.
    q_BNTH, k_BKSH, v_BKSH: lengths are multiples of the blocks.
    diagonals: the bias by distance, [N, 1, T + S], or nothing.
    codes: of queries [B, T] and keys [B, S], see `flash_blocks.visible`.
  """
  b, n, t, h = q_BNTH.shape
  grid = (b, n, t // plan.queries, k_BKSH.shape[2] // plan.keys)
  blocks = flash_plan.visible_blocks(plan, *codes)
  specs = flash_plan.query_major_specs(plan, q_BNTH, k_BKSH, diagonals)
  column = pltpu.VMEM((plan.queries, LANES), jnp.float32)
  out, logsumexp = pl.pallas_call(
    functools.partial(_kernel, plan=plan),
    out_shape=(
      jax.ShapeDtypeStruct(q_BNTH.shape, q_BNTH.dtype),
      jax.ShapeDtypeStruct((b, n, 1, t), jnp.float32),
    ),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=grid,
      in_specs=specs.inputs,
      out_specs=(specs.queries, specs.statistics),
      scratch_shapes=[
        column,
        column,
        pltpu.VMEM((plan.queries, h), jnp.float32),
      ],
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel",) * 3 + ("arbitrary",)
    ),
    cost_estimate=flash_plan.cost(plan, q_BNTH, k_BKSH, products=2),
    interpret=plan.interpret,
    name="flash_forward",
  )(
    *flash_plan.first_and_last(blocks),
    *(code[:, None] for code in codes),
    diagonals,
    q_BNTH,
    k_BKSH,
    v_BKSH,
  )
  return out, logsumexp[:, :, 0]


def _kernel(
  first, last, query_code, key_code, diagonals, q, k, v,
  out, logsumexp, top, total, mixed, *, plan,
):  # fmt: skip
  """Attends from one block of queries to one block of keys.

  Between the blocks of keys, `top` keeps the largest logit so far, the same in
  all lanes, `total` the sum of the exponentials in one part per lane, and
  `mixed` the sum of the values weighted by them.
  """
  i, j = pl.program_id(2), pl.program_id(3)
  row = pl.program_id(0) * pl.num_programs(2) + i

  @pl.when(j == 0)
  def start():
    top[...] = jnp.full_like(top, HIDDEN)
    total[...] = jnp.zeros_like(total)
    mixed[...] = jnp.zeros_like(mixed)

  window = flash_blocks.window(
    i, plan.queries, j, plan.keys, pl.num_programs(2)
  )

  @pl.when((first[row] <= j) & (j <= last[row]))
  def step():
    capped = flash_blocks.cap(flash_blocks.products(q[...], k[...]), plan)
    logits = flash_blocks.logits(
      plan, i, j, capped, diagonals, window, query_code[0], key_code[0]
    )
    higher = jnp.maximum(top[...], jnp.max(logits, axis=1, keepdims=True))
    decay = jnp.exp(top[...] - higher)
    weights = jnp.exp(logits - _widen(higher, plan.keys))
    parts = jnp.split(weights, plan.keys // LANES, axis=1)
    total[...] = decay * total[...] + sum(parts)
    mixed[...] *= _widen(decay, mixed.shape[1])
    mixed[...] += flash_blocks.mix(weights, v[...])
    top[...] = higher

  @pl.when(j == pl.num_programs(3) - 1)
  def end():
    sees = top[...] > HIDDEN / 2
    whole = jnp.where(sees, jnp.sum(total[...], axis=1, keepdims=True), 1)
    share = jnp.where(sees, 1 / whole, 0)
    out[...] = (mixed[...] * _widen(share, mixed.shape[1])).astype(out.dtype)
    # Of a query that sees nothing so large that the backward passes find no
    # probability above 0.
    logarithm = jnp.where(sees, top[...] + jnp.log(whole), -HIDDEN)
    logsumexp[...] = logarithm.T[:1]


def _widen(column, width):
  """Repeats what is the same in all lanes over more of them, or fewer."""
  repeats = -(-width // LANES)
  return jnp.concatenate([column] * repeats, axis=1)[:, :width]
