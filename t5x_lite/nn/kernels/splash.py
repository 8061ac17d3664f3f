"""JAX's splash attention for TPUs: blocks that a rule leaves empty are skipped.

It takes masks that are the same for all rows, segments, a soft cap and sinks,
but no bias and no prefix. On a CPU it is interpreted, slowly.
"""

import functools

import jax
import jax.numpy as jnp

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
    visibility: of a pattern without a prefix.
    bias: None; splash attention has none.
  """
  assert bias is None
  batch, num_heads, length, _ = q_BNTH.shape
  num_kv_heads = k_BKSH.shape[1]
  kv_axes = partition.KEYS
  heads_ways = partition.ways("heads", num_heads)
  if (
    1 < num_kv_heads and partition.ways("kv_heads", num_kv_heads) != heads_ways
  ):
    # Devices share out the heads, but not the key heads that these read.
    repeats, kv_axes = num_heads // num_kv_heads, partition.QUERIES
    k_BKSH, v_BKSH = (jnp.repeat(x, repeats, axis=1) for x in (k_BKSH, v_BKSH))
  q_BNTH, k_BKSH, v_BKSH = map(_pad, (q_BNTH * scale, k_BKSH, v_BKSH))
  segments = [
    _pad(jnp.broadcast_to(segment, (batch, segment.shape[1]))[..., None])[
      ..., 0
    ]
    for segment in (visibility.query_segment_BT, visibility.key_segment_BS)
  ]
  arguments = [
    (q_BNTH, partition.QUERIES), (k_BKSH, kv_axes), (v_BKSH, kv_axes),
    *((segment, ("batch", None)) for segment in segments),
  ]  # fmt: skip
  if sink_N is not None:
    arguments.append((sink_N, ("heads",)))
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


def _pad(x):
  """Returns [..., T, H] with T rounded up to whole blocks; segments get 0."""
  rest = -x.shape[-2] % _LANES
  return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, rest), (0, 0)])


def _on_one_device(
  q_BNTH, k_BKSH, v_BKSH, query_BT, key_BS, sink_N=None,
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
    attn_logits_soft_cap=soft_cap,
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )  # fmt: skip

  def of_row(q_NTH, k_KSH, v_KSH, query_T, key_S):
    segments = splash.SegmentIds(q=query_T, kv=key_S)
    return kernel(q_NTH, k_KSH, v_KSH, segments, sink_N)

  return jax.vmap(of_row)(q_BNTH, k_BKSH, v_BKSH, query_BT, key_BS)


def _mask(masks, pattern: Pattern, shape):
  """Returns a pattern as the kernel's mask, for indices 0, 1, 2, ..."""
  if pattern.window is not None:
    return masks.LocalMask(shape, (pattern.window - 1, 0), 0)
  if pattern.radius is not None:
    return masks.LocalMask(shape, (pattern.radius, pattern.radius), 0)
  return masks.CausalMask(shape) if pattern.causal else masks.FullMask(shape)


def _block(length: int) -> int:
  """Returns the longest block that divides a length.

  At 512 x 512, the float32 logits of a block take 1 MiB, of 16 MiB of VMEM on a
  v5e; the three arrays of that size in the backward still fit with its inputs.
  """
  return max(n for n in (512, 384, 256, 128) if length % n == 0)
