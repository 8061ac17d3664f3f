"""Attention as a pure function of queries, keys, values, bias and mask.

Heads that share a key head are folded into its rows, so that multi-head,
grouped-query and multi-query attention are one computation over [B, K, M, H]
with M = G * T query rows per key head.
"""

import functools

import jax
import jax.numpy as jnp

from t5x_lite.nn import remat
from t5x_lite.nn.kernels.bias import Bias, as_array
from t5x_lite.nn.kernels.visibility import Visibility

# The scope of a product that is a sum, for who counts products.
SUM = "sum_over_batch"

# Finite, so that a row that sees nothing (padding) stays finite too.
HIDDEN = -1e30


def attend(
  q_BNTH: jax.Array,
  k_BKSH: jax.Array,
  v_BKSH: jax.Array,
  *,
  visibility: Visibility,
  bias: Bias = None,
  scale: float,
  soft_cap: float | None = None,
  sink_N: jax.Array | None = None,
  dropout_mask=None,
) -> jax.Array:
  """Mixes values by the softmax of the scaled products of queries and keys.

  Eq. 1, Vaswani et al. 2017, arXiv:1706.03762; K < N is grouped-query
  (Ainslie et al. 2023, arXiv:2305.13245), K = 1 multi-query attention
  (Shazeer 2019, arXiv:1911.02150).

  Args:
    q_BNTH: queries, one [T, H] per head.
    k_BKSH: keys; head n of the queries reads key head n // (N / K).
    v_BKSH: values.
    visibility: with its mask as an array.
    bias: float32, added to the scaled logits.
    scale: factor on the products.
    soft_cap: c in c * tanh(logits / c), before the mask (Gemma Team 2024,
      arXiv:2408.00118, section 2).
    sink_N: a logit per head of a key without value, that takes the attention
      which has nowhere to go.
    dropout_mask: a function of the float32 probabilities [B, K, G, T, S] that
      drops some of them, or None.

  Returns:
    [B, N, T, H] in the dtype of the queries; zeros where a query sees nothing.
  """
  mask_BTS = visibility.mask_BTS
  bias_BNTS = as_array(bias, visibility.query_index_BT, visibility.key_index_BS)
  b, n, t, h = q_BNTH.shape
  num_kv_heads = k_BKSH.shape[1]
  group = n // num_kv_heads
  q_BKMH = q_BNTH.reshape(b, num_kv_heads, group * t, h)
  bias = None
  if bias_BNTS is not None:
    rows, _, *maps = bias_BNTS.shape
    bias = jnp.broadcast_to(bias_BNTS, (rows, n, *maps))
    bias = bias.reshape(rows, num_kv_heads, group, *maps)
  mask = mask_BTS[:, None, None]
  mix = _mix
  if any(x is not None for x in (dropout_mask, soft_cap, sink_N)):
    mix = functools.partial(
      _mix_by_autodiff, soft_cap=soft_cap, sink_N=sink_N, drop=dropout_mask
    )
  out_BKMH = mix(q_BKMH * scale, k_BKSH, v_BKSH, bias, mask)
  # Without this a query that sees nothing, such as that of a text without
  # inputs in a packed row, would get the mean of its neighbours' values.
  sees_BT = jnp.any(mask_BTS, axis=-1)[:, None, :, None]
  out_BNTH = jnp.where(sees_BT, out_BKMH.reshape(b, n, t, -1), 0)
  return remat.context(out_BNTH)


def _probabilities(
  q_BKMH, k_BKSH, bias_BKGTS, mask_B11TS, soft_cap=None, sink_N=None
):
  """Returns the float32 softmax [B, K, G, T, S]."""
  b, k, m, _ = q_BKMH.shape
  t, s = mask_B11TS.shape[-2:]
  logits = _products(q_BKMH, k_BKSH).reshape(b, k, m // t, t, s)
  if soft_cap is not None:
    logits = soft_cap * jnp.tanh(logits / soft_cap)
  if bias_BKGTS is not None:
    logits += bias_BKGTS
  logits = jnp.where(mask_B11TS, logits, HIDDEN)
  if sink_N is None:
    # float32: a bfloat16 softmax loses mass past 4k keys.
    return jax.nn.softmax(logits, axis=-1)
  sink = jnp.broadcast_to(sink_N.reshape(k, -1, 1, 1), (*logits.shape[:4], 1))
  with_sink = jnp.concatenate([logits, sink.astype(jnp.float32)], axis=-1)
  return jax.nn.softmax(with_sink, axis=-1)[..., :-1]


@jax.custom_vjp
def _products(q_BKMH, k_BKSH):
  """Returns float32 products, with gradients from their own dtype's products.

  Autodiff would multiply a float32 gradient by bfloat16 keys: in float32.
  """
  return jnp.einsum(
    "BKMH,BKSH->BKMS", q_BKMH, k_BKSH, preferred_element_type=jnp.float32
  )


def _products_backward(residuals, g_BKMS):
  q_BKMH, k_BKSH = residuals
  g_BKMS = g_BKMS.astype(q_BKMH.dtype)
  dq = jnp.einsum("BKMS,BKSH->BKMH", g_BKMS, k_BKSH)
  return dq, jnp.einsum("BKMS,BKMH->BKSH", g_BKMS, q_BKMH)


_products.defvjp(lambda q, k: (_products(q, k), (q, k)), _products_backward)


def _mix_by_autodiff(q, k, v, bias, mask, *, soft_cap, sink_N, drop):
  probs = _probabilities(q, k, bias, mask, soft_cap, sink_N)
  if drop is not None:
    probs = drop(probs)
  probs = probs.astype(v.dtype)
  return jnp.einsum("BKMS,BKSH->BKMH", probs.reshape(*q.shape[:3], -1), v)


@jax.custom_vjp
def _mix(q, k, v, bias, mask):
  return _mix_forward(q, k, v, bias, mask)[0]


def _mix_forward(q, k, v, bias, mask):
  probs = _probabilities(q, k, bias, mask).astype(v.dtype)
  probs_BKMS = probs.reshape(*q.shape[:3], -1)
  out = jnp.einsum("BKMS,BKSH->BKMH", probs_BKMS, v)
  return out, (q, k, v, bias, mask, probs_BKMS, out)


def _mix_backward(residuals, g):
  """Never transposes an array of T x S: only the thin T x H ones."""
  q, k, v, bias, mask, probs_BKMS, out = residuals
  f32 = jnp.float32
  dv = jnp.einsum("BKMH,BKMS->BKHS", g, probs_BKMS).swapaxes(-1, -2)
  dprobs = jnp.einsum("BKMH,BKSH->BKMS", g, v, preferred_element_type=f32)
  # sum_s p dp = g . out, without another pass over T x S.
  inner = jnp.sum(g.astype(f32) * out.astype(f32), axis=-1, keepdims=True)
  dlogits = probs_BKMS.astype(f32) * (dprobs - inner)
  dbias = None
  if bias is not None:
    full = dlogits.reshape(*dlogits.shape[:2], -1, *mask.shape[-2:])
    # The barrier sums now: fused into what adds up the layers, the sum would
    # keep the T x S array of every layer alive.
    dbias = jax.lax.optimization_barrier(sum_to(bias.shape, full))
  dlogits = dlogits.astype(q.dtype)
  dq = jnp.einsum("BKMS,BKSH->BKMH", dlogits, k)
  dk = jnp.einsum("BKMH,BKMS->BKHS", q, dlogits).swapaxes(-1, -2)
  return dq, dk, dv, dbias, None


_mix.defvjp(_mix_forward, _mix_backward)


def sum_to(shape, x):
  """Sums x over the dims that are 1 in `shape`; the inverse of broadcasting.

  Args:
    shape: what x, of five dims, was broadcast from.
    x: the gradient.
  """
  if shape[0] == 1 != x.shape[0]:
    # As a product with ones: XLA's CPU backend sums over a leading dim at a
    # tenth of the memory's speed.
    ones = jnp.ones((1, x.shape[0]), x.dtype)
    with jax.named_scope(SUM):
      x = (ones @ x.reshape(x.shape[0], -1)).reshape(1, *x.shape[1:])
  summed = tuple(i for i in range(5) if shape[i] == 1 != x.shape[i])
  return jnp.sum(x, axis=summed, keepdims=True) if summed else x
