"""JAX's splash attention for TPUs: blocks that a rule leaves empty are skipped.

It takes segments, a soft cap and sinks, but no bias. What is skipped is the
same for all rows, so that with a prefix nothing is. On a CPU the kernel is
interpreted, which is slow.
"""

import functools
import operator

import jax
import jax.numpy as jnp

from t5x_lite.nn import remat
from t5x_lite.nn.kernels import partition
from t5x_lite.nn.kernels.visibility import Pattern, Visibility

# The kernel's blocks are multiples of a TPU's lanes.
_LANES = 128


def attend(
  q_BNTH: jax.Array,
  k_BKSH: jax.Array,
  v_BKSH: jax.Array,
  *,
  visibility: Visibility,
  bias: None = None,
  scale: float,
  soft_cap: float | None = None,
  sink_N: jax.Array | None = None,
) -> jax.Array:
  """Attends as einsum.attend does, which has the arguments.

  Args:
    visibility: of any pattern, with indices 0, 1, 2, ...; a prefix is at the
      start of its document.
    bias: None; splash attention has none.
  """
  assert bias is None
  batch, num_heads, length, _ = q_BNTH.shape
  k_BKSH, v_BKSH, kv_axes = partition.keys_for_heads(k_BKSH, v_BKSH, num_heads)
  q_BNTH, k_BKSH, v_BKSH = (
    _pad(remat.operand(x), 2) for x in (q_BNTH * scale, k_BKSH, v_BKSH)
  )
  tokens = [visibility.query_segment_BT, visibility.key_segment_BS]
  if visibility.prefix_BS is not None:
    tokens.append(_reach(visibility.prefix_BS, visibility.key_segment_BS))
  tokens = [_pad(jnp.broadcast_to(x, (batch, x.shape[1])), 1) for x in tokens]
  arguments = [
    (q_BNTH, partition.QUERIES), (k_BKSH, kv_axes), (v_BKSH, kv_axes),
    (sink_N, ("heads",)), *((x, ("batch", None)) for x in tokens),
  ]  # fmt: skip
  kernel = functools.partial(
    _on_one_device,
    pattern=visibility.pattern,
    soft_cap=soft_cap,
    interpret=partition.platform() == "cpu",
  )
  out_BNTH = partition.per_device(kernel, *arguments)[:, :, :length]
  # Padding attends to padding in the kernel, and a query without any key gets
  # the mean of all values.
  return jnp.where(visibility.sees_any()[:, None, :, None], out_BNTH, 0)


def _pad(x, dim):
  """Rounds a dim up to whole lanes; padded tokens get the segment 0."""
  rest = [(0, 0)] * x.ndim
  rest[dim] = (0, -x.shape[dim] % _LANES)
  return jnp.pad(x, rest)


def _reach(prefix_BT, segment_BT):
  """Returns the last index that each query sees, causally or in the prefix."""
  index_T = jnp.arange(prefix_BT.shape[1])
  goes_on_BT = prefix_BT[:, :-1] & prefix_BT[:, 1:]
  goes_on_BT &= segment_BT[:, :-1] == segment_BT[:, 1:]
  ends_BT = ~jnp.pad(goes_on_BT, ((0, 0), (0, 1)))
  end_BT = jnp.where(ends_BT, index_T, prefix_BT.shape[1])
  return jax.lax.cummin(end_BT, axis=1, reverse=True)


def _on_one_device(
  q_BNTH, k_BKSH, v_BKSH, sink_N, query_BT, key_BS, reach_BT=None,
  *, pattern, soft_cap, interpret,
):  # fmt: skip
  # Loaded here: only a program that uses the kernel takes the time for Pallas.
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash,
  )
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
  )

  _, num_heads, length, _ = q_BNTH.shape
  mask = _mask(masks, pattern, (length, k_BKSH.shape[2]))
  queries, keys = _block(length), _block(k_BKSH.shape[2])
  kernel = splash.make_splash_mha(
    masks.MultiHeadMask([mask] * num_heads),
    block_sizes=splash.BlockSizes(
      block_q=queries, block_kv=keys, block_kv_compute=keys,
      block_q_dkv=queries, block_kv_dkv=keys, block_kv_dkv_compute=keys,
      block_q_dq=queries, block_kv_dq=keys,
    ),
    residual_checkpoint_name=remat.CONTEXT,
    attn_logits_soft_cap=soft_cap,
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )  # fmt: skip

  infos = kernel.fwd_mask_info, kernel.dq_mask_info, kernel.dkv_mask_info

  def of_row(q_NTH, k_KSH, v_KSH, query_T, key_S, reach_T):
    run = kernel
    if reach_T is not None:
      # The causal mask, of queries that stand where their reach ends.
      run = splash.SplashAttentionKernel(
        *(info._replace(q_sequence=reach_T) for info in infos),
        **kernel.kwargs | {"mask_function": operator.ge},
      )
    segments = splash.SegmentIds(q=query_T, kv=key_S)
    return run(q_NTH, k_KSH, v_KSH, segments, sink_N)

  return jax.vmap(of_row)(q_BNTH, k_BKSH, v_BKSH, query_BT, key_BS, reach_BT)


def _mask(masks, pattern: Pattern, shape):
  """Returns what of a pattern is the same for all rows."""
  if pattern.window is not None:
    return masks.LocalMask(shape, (pattern.window - 1, 0), 0)
  if pattern.radius is not None:
    return masks.LocalMask(shape, (pattern.radius, pattern.radius), 0)
  causal = pattern.causal and not pattern.prefix
  return masks.CausalMask(shape) if causal else masks.FullMask(shape)


def _block(length: int) -> int:
  """Returns the longest block that divides a length.

  At 512 x 512, the float32 logits of a block take 1 MiB, of 16 MiB of VMEM on a
  v5e; the three arrays of that size in the backward still fit with its inputs.
  """
  return max(n for n in (512, 384, 256, 128) if length % n == 0)
