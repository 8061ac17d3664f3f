"""Flash attention for TPUs and GPUs, with position biases computed inside.

Dao et al. 2022, arXiv:2205.14135, and Dao 2023, arXiv:2307.08691: blocks of
keys pass by a block of queries, and the softmax is corrected as larger logits
are met, so that no [T, S] array is ever written. Biases by relative distance
(T5, ALiBi) are read from a vector of T + S entries per head; flash_blocks.py
has the drawing. Blocks in which nothing is visible, by the pattern or by the
segments of packed rows, are neither computed nor fetched. On a CPU the kernels
are interpreted, slowly.
"""

import functools

import jax
import jax.numpy as jnp

from t5x_lite.nn import remat
from t5x_lite.nn.kernels import partition
from t5x_lite.nn.kernels.bias import Buckets, Slopes
from t5x_lite.nn.kernels.visibility import Visibility


def attend(
  q_BNTH: jax.Array,
  k_BKSH: jax.Array,
  v_BKSH: jax.Array,
  *,
  visibility: Visibility,
  bias: Buckets | Slopes | None = None,
  scale: float,
  soft_cap: float | None = None,
  sink_N: jax.Array | None = None,
) -> jax.Array:
  """Attends as einsum.attend does, which has the arguments.

  Args:
    visibility: of a pattern. Tokens are where they stand in the arrays: their
      indices count from 0, as they do in training.
  """
  batch, num_heads, length, _ = q_BNTH.shape
  k_BKSH, v_BKSH, kv_axes = partition.keys_for_heads(k_BKSH, v_BKSH, num_heads)
  query_code, key_code = _codes(visibility, batch)
  diagonals, platform = None, partition.platform()
  if bias is not None:
    diagonals = _by_distance(bias, length, k_BKSH.shape[2])
  kernel = functools.partial(
    _on_one_device,
    pattern=visibility.pattern,
    soft_cap=soft_cap,
    gpu=platform == "gpu",
    interpret=platform == "cpu",
  )
  return partition.per_device(
    kernel,
    (remat.operand(q_BNTH * scale), partition.QUERIES),
    (remat.operand(k_BKSH), kv_axes),
    (remat.operand(v_BKSH), kv_axes),
    (query_code, ("batch", None)),
    (key_code, ("batch", None)),
    (diagonals, ("heads", None)),
    (sink_N, ("heads",)),
  )


def _on_one_device(*arrays, **settings):
  # Loaded here: only a program that uses the kernel takes the time for Pallas.
  from t5x_lite.nn.kernels import flash_device

  return flash_device.attend(*arrays, **settings)


def _codes(visibility, batch):
  """Returns what tells which tokens may see which, int32 [B, T] and [B, S].

  Twice the segment, and 1 more for a key of the prefix.
  """
  query_code = 2 * visibility.query_segment_BT
  key_code = 2 * visibility.key_segment_BS
  if visibility.prefix_BS is not None:
    key_code += visibility.prefix_BS
  return (
    jnp.broadcast_to(x, (batch, x.shape[1])) for x in (query_code, key_code)
  )


def _by_distance(bias, length, key_length):
  """Returns the bias by relative distance, float32 [N, length + key_length].

  Entry x is of keys x - length places to the right of their query.
  """
  distance = jnp.arange(length + key_length) - length
  return bias.array(jnp.zeros((1, 1), jnp.int32), distance[None])[0, :, 0]
