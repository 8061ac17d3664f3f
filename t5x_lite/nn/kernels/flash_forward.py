"""The forward pass of flash attention, and attention on one device."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from t5x_lite.nn import remat
from t5x_lite.nn.kernels import flash_backward, flash_blocks, flash_plan
from t5x_lite.nn.kernels.flash_blocks import HIDDEN
from t5x_lite.nn.kernels.flash_plan import LANES, Plan
from t5x_lite.nn.kernels.visibility import Pattern


def attend(
  q_BNTH: jax.Array,
  k_BKSH: jax.Array,
  v_BKSH: jax.Array,
  query_code_BT: jax.Array,
  key_code_BS: jax.Array,
  diagonals: jax.Array | None,
  sink_N: jax.Array | None,
  *,
  pattern: Pattern,
  soft_cap: float | None,
  interpret: bool,
) -> jax.Array:
  """Mixes values by the softmax of the products of queries and keys.

  Args:
    q_BNTH, k_BKSH, v_BKSH: queries, scaled already, keys and values.
    query_code_BT: int32, twice the segment of each query; 0 is padding.
    key_code_BS: the same of the keys, and 1 more for one of the prefix.
    diagonals: float32 [N, T + S], or None; entry x is the bias of keys that
      stand x - T places to the right of their query.
    sink_N: the logits of a key without value, or None.
    pattern: of the attention rule.
    soft_cap: c in c * tanh(logits / c).
    interpret: whether to run as plain operations, which needs no TPU.

  Returns:
    [B, N, T, H] in the dtype of the queries; zeros where a query sees nothing.
  """
  length, key_length = q_BNTH.shape[2], k_BKSH.shape[2]
  plan = Plan(
    queries=flash_plan.block_size(length),
    keys=flash_plan.block_size(key_length),
    pattern=pattern,
    soft_cap=soft_cap,
    interpret=interpret,
  )
  # The padding is of segment 0, which no query sees.
  q_BNTH = _pad(q_BNTH, 2, plan.queries)
  k_BKSH, v_BKSH = (_pad(x, 2, plan.keys) for x in (k_BKSH, v_BKSH))
  codes = _pad(query_code_BT, 1, plan.queries), _pad(key_code_BS, 1, plan.keys)
  by_head = ()
  if diagonals is not None:
    more = (q_BNTH.shape[2] - length, k_BKSH.shape[2] - key_length)
    by_head = (jnp.pad(diagonals, ((0, 0), more))[:, None],)
  out, logsumexp = _attend(plan, q_BNTH, k_BKSH, v_BKSH, by_head, codes)
  if sink_N is not None:
    # What the sink leaves to the keys.
    share_BNT = jax.nn.sigmoid(logsumexp - sink_N[:, None])
    out = (out * share_BNT[..., None]).astype(out.dtype)
  return out[:, :, :length]


def _pad(x, axis, multiple):
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, -x.shape[axis] % multiple)
  return jnp.pad(x, widths)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan, q, k, v, diagonals, codes):
  """Returns the mixed values [B, N, T, H] and the logsumexp [B, N, T].

  Lengths are multiples of the plan's blocks.
  """
  return _forward(plan, q, k, v, diagonals, codes)


def _attend_forward(plan, *inputs):
  out, logsumexp = map(remat.context, _forward(plan, *inputs))
  return (out, logsumexp), (*inputs, out, logsumexp)


def _attend_backward(plan, residuals, cotangents):
  *inputs, out, logsumexp = residuals
  g, g_logsumexp = cotangents
  # sum_s p dp = g . out, and the logsumexp's own gradient is the softmax.
  inner = jnp.sum(g.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
  grads = flash_backward.backward(
    plan, *inputs, g=g, logsumexp=logsumexp, inner=inner - g_logsumexp
  )
  return *grads, None


_attend.defvjp(_attend_forward, _attend_backward)


def _forward(plan, q_BNTH, k_BKSH, v_BKSH, diagonals, codes):
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
