"""The table of attention kernels: which takes what, and which is chosen.

A kernel is one file of this package with one function

  kernel(q_BNTH, k_BKSH, v_BKSH, *, visibility, bias, scale, soft_cap, sink_N)

that returns [B, N, T, H] (einsum.py has the arguments), and one row of KERNELS.
"""

import dataclasses
from collections.abc import Callable

import jax

from t5x_lite.nn.kernels import blocked, cudnn, einsum, flash, partition, splash
from t5x_lite.nn.kernels.visibility import Pattern

AUTO = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """What a layer asks of a kernel, as far as it is known before it runs.

  Attributes:
    query_length, key_length: T and S.
    head_dim: H.
    dtype: of queries, keys and values.
    pattern: of the attention rule; None if it has only a mask.
    bias: the kind of the bias, "array", "buckets" or "slopes", or None.
    soft_cap, sink, dropout: whether the layer has them.
    cached: whether the keys are those of a cache, some slots of it empty.
  """

  query_length: int
  key_length: int
  head_dim: int
  dtype: str
  pattern: Pattern | None
  bias: str | None = None
  soft_cap: bool = False
  sink: bool = False
  dropout: bool = False
  cached: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
  """What a kernel takes.

  Attributes:
    run: the kernel.
    platforms: where it runs; None means everywhere.
    interpreted: whether a CPU interprets it, slowly, where it is named.
    dtypes, patterns, biases: those that it takes, by name; None means all.
    head_dims: the head dims that it takes; None means all.
    soft_cap, sink, dropout, cached: whether it takes them.
    even_lengths: whether lengths must be even.
    reads_mask, reads_bias: whether it reads the mask, and the bias, as arrays.
    keeps_scores: whether the backward pass reads the probabilities that the
      forward pass has computed.
    shortest: queries and keys from which on "auto" takes it.
  """

  run: Callable[..., jax.Array]
  platforms: tuple[str, ...] | None = None
  interpreted: bool = False
  dtypes: tuple[str, ...] | None = None
  patterns: tuple[str, ...] | None = None
  biases: tuple[str, ...] | None = None
  head_dims: range | None = None
  soft_cap: bool = False
  sink: bool = False
  dropout: bool = False
  cached: bool = False
  even_lengths: bool = False
  reads_mask: bool = False
  reads_bias: bool = False
  keeps_scores: bool = False
  shortest: int = 128

  def compiles_for(self, platform: str) -> bool:
    """Tells whether the kernel is compiled for a platform."""
    return self.platforms is None or platform in self.platforms

  def refusal(self, case: Case, platform: str) -> str | None:
    """Returns what of a case the kernel does not take, or None."""
    if not self.compiles_for(platform):
      if not (self.interpreted and platform == "cpu"):
        return f"the platform {platform}"
    pattern = case.pattern.name if case.pattern else "without a pattern"
    found = (
      (case.dtype, self.dtypes, "dtype {}"),
      (pattern, self.patterns, "the attention rule {}"),
      (case.bias, case.bias and self.biases, "the bias {}"),
      (case.head_dim, self.head_dims, "head_dim {}"),
    )
    for value, taken, text in found:
      if taken is not None and value not in taken:
        return text.format(value)
    for name in ("soft_cap", "sink", "dropout"):
      if getattr(case, name) and not getattr(self, name):
        return name
    if case.cached and not self.cached:
      return "a cache of keys and values, as in decoding"
    lengths = case.query_length, case.key_length
    if self.even_lengths and any(n % 2 for n in lengths):
      return f"odd lengths {lengths}"
    return None


# In the order in which "auto" tries them.
KERNELS = {
  "splash": Kernel(
    run=splash.attend, platforms=("tpu",), interpreted=True,
    dtypes=("float32", "bfloat16"),
    patterns=("full", "causal", "window", "local", "prefix"), biases=(),
    soft_cap=True, sink=True,
  ),
  "cudnn": Kernel(
    run=cudnn.attend, platforms=("gpu",), dtypes=("bfloat16", "float16"),
    patterns=("full", "causal", "window"), head_dims=range(8, 257, 8),
    even_lengths=True, reads_bias=True,
  ),
  "flash": Kernel(
    run=flash.attend, platforms=("tpu", "gpu"), interpreted=True,
    dtypes=("float32", "bfloat16"),
    patterns=("full", "causal", "window", "local", "prefix"),
    biases=("buckets", "slopes"), soft_cap=True, sink=True, shortest=64,
  ),
  "blocked": Kernel(
    run=blocked.attend, platforms=("cpu",),
    patterns=("full", "causal", "window", "local", "prefix"),
    soft_cap=True, sink=True, reads_bias=True, keeps_scores=True, shortest=256,
  ),
  "einsum": Kernel(
    run=einsum.attend,
    soft_cap=True, sink=True, dropout=True, cached=True,
    reads_mask=True, reads_bias=True, keeps_scores=True, shortest=0,
  ),
}  # fmt: skip


def choose(name: str, case: Case, platform: str | None = None) -> str:
  """Returns the kernel that serves a case.

  Args:
    name: of a kernel, or "auto" for the first of KERNELS that takes the case.
    case: what the layer asks.
    platform: what it is compiled for; None means the devices of the mesh.

  Raises:
    ValueError: the named kernel does not take the case.
  """
  platform = platform or partition.platform()
  taking = [k for k, row in KERNELS.items() if not row.refusal(case, platform)]
  if name == AUTO:
    name = next(k for k in taking if _suits(KERNELS[k], case, platform))
  if name not in taking:
    raise ValueError(
      f"CoreAttention.kernel {name!r} does not take "
      f"{KERNELS[name].refusal(case, platform)}: use {AUTO} or one of "
      f"{', '.join(taking)}"
    )
  return name


def _suits(row, case, platform) -> bool:
  shortest = min(case.query_length, case.key_length)
  return row.compiles_for(platform) and shortest >= row.shortest
