"""cuDNN's flash attention, on GPUs in half precision.

Causality, windows and lengths are flags, so that rows of one document each need
no mask. cuDNN has no segments: where rows of a batch are packed, those of that
batch are kept apart by a mask [B, 1, T, S], which is added to the logits.
"""

import functools

import jax
import jax.numpy as jnp

from t5x_lite.nn import remat
from t5x_lite.nn.kernels import partition
from t5x_lite.nn.kernels.bias import Bias, as_array
from t5x_lite.nn.kernels.visibility import Visibility


def attend(
  q_BNTH: jax.Array,
  k_BKSH: jax.Array,
  v_BKSH: jax.Array,
  *,
  visibility: Visibility,
  bias: Bias = None,
  scale: float,
  soft_cap: None = None,
  sink_N: None = None,
) -> jax.Array:
  """Attends as einsum.attend does, which has the arguments.

  Args:
    visibility: of a pattern that is full, causal or a window.
    soft_cap, sink_N: None; cuDNN does not have them.
  """
  assert soft_cap is None and sink_N is None
  batch, num_heads, _, _ = q_BNTH.shape
  k_BKSH, v_BKSH, kv_axes = partition.keys_for_heads(k_BKSH, v_BKSH, num_heads)
  bias = as_array(bias, visibility.query_index_BT, visibility.key_index_BS)
  if bias is not None:
    bias = bias.astype(q_BNTH.dtype)
  bias_axes = tuple(
    None if bias is None or bias.shape[dim] == 1 else axis
    for dim, axis in enumerate(("batch", "heads"))
  )
  queries_BT, keys_BS = (
    jnp.broadcast_to(segment, (batch, segment.shape[1]))
    for segment in (visibility.query_segment_BT, visibility.key_segment_BS)
  )
  # XLA leaves cuDNN's backward pass whole on each device where it is
  # rematerialised.
  out_BNTH = partition.per_device(
    functools.partial(_on_one_device, pattern=visibility.pattern, scale=scale),
    (q_BNTH, partition.QUERIES),
    (k_BKSH, kv_axes),
    (v_BKSH, kv_axes),
    (bias, (*bias_axes, None, None)),
    (queries_BT, ("batch", None)),
    (keys_BS, ("batch", None)),
  )
  sees_B1T1 = visibility.sees_any()[:, None, :, None]
  return jnp.where(sees_B1T1, remat.context(out_BNTH), 0)


def _on_one_device(
  q_BNTH, k_BKSH, v_BKSH, bias, queries_BT, keys_BS, *, pattern, scale
):
  window = None
  if pattern.window is not None:
    window = (pattern.window - 1, 0)
  fused = functools.partial(
    jax.nn.dot_product_attention,
    *(x.swapaxes(1, 2) for x in (q_BNTH, k_BKSH, v_BKSH)),
    bias=bias,
    scale=scale,
    is_causal=pattern.causal,
    local_window_size=window,
    implementation="cudnn",
  )

  def one_document_each():
    return fused(
      query_seq_lengths=_lengths(queries_BT),
      key_value_seq_lengths=_lengths(keys_BS),
    )

  def packed():
    return fused(mask=(queries_BT[:, :, None] == keys_BS[:, None, :])[:, None])

  out_BTNH = jax.lax.cond(
    _is_one_document(queries_BT) & _is_one_document(keys_BS),
    one_document_each,
    packed,
  )
  return out_BTNH.swapaxes(1, 2)


def _lengths(segment_BS: jax.Array) -> jax.Array:
  # At least 1: the gradient of a row without a token must stay finite.
  real_B = jnp.sum(segment_BS != 0, axis=1, dtype=jnp.int32)
  return jnp.maximum(real_B, 1)


def _is_one_document(segment_BS: jax.Array) -> jax.Array:
  """Tells whether each row is one document, and then padding."""
  real_BS = segment_BS != 0
  padding_is_last = ~jnp.any(real_BS[:, 1:] & ~real_BS[:, :-1])
  return jnp.all(segment_BS <= 1) & padding_is_last
