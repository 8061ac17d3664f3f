"""Estimates the seconds of calls that XLA does not see into.

Their FLOPs at a share of the peak, or their bytes at the memory's bandwidth if
that is longer:

- Kernels, of Pallas and of cuDNN, at `KERNEL_SHARE`. FLOPs are those that a
  kernel states of itself (`pl.CostEstimate`). One that states none is taken for
  attention: 2 |queries| S per matmul and visible pair, two matmuls forward;
  backward two that are computed again, and one per gradient and one more for
  the gradient of the scores. cuDNN's backward pass computes one again.
- Matmuls that a GPU leaves to cuBLAS, at `MATMUL_SHARE`: what XLA's own large
  matmuls reach on a TPU. XLA's table of those of an H100 says 0.79.
"""

import math
import re
from collections.abc import Callable, Sequence

from t5x_lite.accounting import hlo
from t5x_lite.accounting.topologies import Chip

KERNEL_SHARE = 0.48
MATMUL_SHARE = 0.7
# GPUs' by JAX 0.10, and later ones.
_PALLAS = ("tpu_custom_call", "__gpu$xla.gpu.triton", "triton_kernel_call_ffi")
_FLOATS = ("bf16", "f16", "f32")


def kernel_s(
  one: hlo.Instruction,
  read: Sequence[hlo.Array],
  chip: Chip,
  visible: Callable[[], float],
) -> float:
  """Returns the seconds of a kernel, 0 of all that is none.

  Args:
    one: an instruction.
    read: the arrays that it reads.
    chip: what it runs on.
    visible: returns the share of query-key pairs that attention does not skip.
  """
  stated = re.search(r'"cost_estimate":\{[^}]*"flops":"?(\d+)', one.text)
  if "__cudnn$fmha" in one.text:
    flops = cudnn_flops(one) * visible()
  elif not any(f'"{name}"' in one.text for name in _PALLAS):
    return 0.0
  elif stated:
    flops = float(stated[1])
  else:
    flops = attention_flops(read, one.outputs) * visible()
  return _seconds(flops / KERNEL_SHARE, one, read, chip)


def matmul_s(
  one: hlo.Instruction, read: Sequence[hlo.Array], chip: Chip
) -> float:
  """Returns the seconds of a matmul by cuBLAS, 0 of all that is none."""
  if "__cublas" not in one.text:
    return 0.0
  dims = re.search(r'"lhs_contracting_dimensions":\[([^]]*)\]', one.text)
  summed = math.prod(
    read[0].shape[int(dim)] for dim in re.findall(r"\d+", dims[1])
  )
  flops = 2.0 * one.outputs[0].size * summed
  return _seconds(flops / MATMUL_SHARE, one, read, chip)


def _seconds(flops, one, read, chip) -> float:
  nbytes = sum(array.nbytes for array in (*read, *one.outputs))
  return max(flops / chip.peak_flops, nbytes / chip.hbm_bytes_per_s)


def attention_flops(
  read: Sequence[hlo.Array], written: Sequence[hlo.Array]
) -> float:
  """Returns the FLOPs of an attention kernel over all pairs, by its arrays.

  Queries [..., T, H] are its first floating input of three dims or more, keys
  [..., S, H] the second. With values, that is a forward pass; with the
  gradient of the output besides, a backward pass. 0 if there are no such
  inputs.
  """
  big = [a for a in read if a.dtype in _FLOATS and len(a.shape) > 2]
  alike = [a for a in big if a.shape[-1] == big[0].shape[-1]]
  if len(alike) < 3:
    return 0.0
  queries, keys = alike[0], alike[1]
  lengths = (queries.shape[-2], keys.shape[-2])
  gradients = [
    a
    for a in written
    if len(a.shape) > 2
    and a.shape[-1] == queries.shape[-1]
    and a.shape[-2] in lengths
    and a.size in (queries.size, keys.size)
    and a.dtype == queries.dtype
  ]
  matmuls = 2 if len(alike) == 3 else 2 + len(gradients)
  return 2.0 * queries.size * lengths[1] * matmuls


def cudnn_flops(one: hlo.Instruction) -> float:
  """Returns the FLOPs of cuDNN's attention over all pairs.

  It states the shape of the logits, [B, N, T, S].
  """
  text = re.search(
    r'"intermediate_tensor_shape":.*?"dimensions":\s*\[([^]]*)\]', one.text
  )
  logits = math.prod(int(n) for n in re.findall(r"\d+", text[1]))
  matmuls = 5 if "Backward" in one.text else 2
  return 2.0 * logits * one.outputs[0].shape[-1] * matmuls
