"""Flash attention on one device, TPU or GPU, and its derivative."""

import functools

import jax
import jax.numpy as jnp

from t5x_lite.nn import remat
from t5x_lite.nn.kernels import flash_plan
from t5x_lite.nn.kernels.flash_plan import Plan
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
  gpu: bool,
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
    gpu: whether to run a GPU's passes rather than a TPU's.
    interpret: whether to run them as plain operations, which needs neither.

  Returns:
    [B, N, T, H] in the dtype of the queries; zeros where a query sees nothing.
  """
  _, _, length, head_dim = q_BNTH.shape
  key_length = k_BKSH.shape[2]
  if gpu:  # Triton takes powers of 2, of 16 or more.
    width = max(16, 1 << (head_dim - 1).bit_length())
    q_BNTH, k_BKSH, v_BKSH = (
      _pad(x, 3, width) for x in (q_BNTH, k_BKSH, v_BKSH)
    )
    queries = keys = flash_plan.gpu_block_size(width * q_BNTH.dtype.itemsize)
  else:
    queries, keys = map(flash_plan.block_size, (length, key_length))
  plan = Plan(
    queries=queries,
    keys=keys,
    pattern=pattern,
    soft_cap=soft_cap,
    gpu=gpu,
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
  return out[:, :, :length, :head_dim]


def _passes(plan):
  """Returns the modules of a device's forward and backward passes."""
  # A program loads only what of Pallas it uses.
  if plan.gpu:
    from t5x_lite.nn.kernels import flash_gpu

    return flash_gpu, flash_gpu
  from t5x_lite.nn.kernels import flash_backward, flash_forward

  return flash_forward, flash_backward


def _pad(x, axis, multiple):
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, -x.shape[axis] % multiple)
  return jnp.pad(x, widths)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan, q, k, v, diagonals, codes):
  """Returns the mixed values [B, N, T, H] and the logsumexp [B, N, T].

  Lengths are multiples of the plan's blocks.
  """
  forward, _ = _passes(plan)
  return forward.forward(plan, q, k, v, diagonals, codes)


def _attend_forward(plan, *inputs):
  out, logsumexp = map(remat.context, _attend(plan, *inputs))
  return (out, logsumexp), (*inputs, out, logsumexp)


def _attend_backward(plan, residuals, cotangents):
  *inputs, out, logsumexp = residuals
  g, g_logsumexp = cotangents
  # sum_s p dp = g . out, and the logsumexp's own gradient is the softmax.
  inner = jnp.sum(g.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
  _, backward = _passes(plan)
  grads = backward.backward(
    plan, *inputs, g=g, logsumexp=logsumexp, inner=inner - g_logsumexp
  )
  return *grads, None


_attend.defvjp(_attend_forward, _attend_backward)
