"""Describes NVIDIA GPUs that are not here to XLA, which compiles for them.

The facts are of NVIDIA's "CUDA C++ Programming Guide", appendix "Compute
Capabilities", and of the data sheets of A100 SXM, H100 SXM and H200; XLA's own
descriptions (xla/backends/gpu/target_config/specs) have the same. JAX's CUDA
plugin compiles for them; neither CUDA nor cuDNN has to be installed.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

_KIB = 2**10
# Makes XLA write down the time that it expects of each fusion. Matmuls are left
# to cuBLAS: which of them Triton does better, XLA measures on a GPU.
COMPILER_OPTIONS = {
  "xla_gpu_collect_cost_model_stats": True,
  "xla_gpu_enable_triton_gemm": False,
}
# The first version whose attention has all that JAX passes on.
_CUDNN_VERSION = 91000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
  """Holds what XLA asks of a GPU beside the speeds of topologies.Chip.

  Attributes:
    name: the maker's.
    cores: streaming multiprocessors.
    fpus_per_core: float32 units of each.
    clock_ghz: of the cores, at most.
    shared_bytes_per_core: shared memory and first cache of a core.
    l2_bytes: second cache.
    memory_bytes: built in.
  """

  name: str
  cores: int
  fpus_per_core: int
  clock_ghz: float
  shared_bytes_per_core: int
  l2_bytes: int
  memory_bytes: int


_H100 = Gpu(
  name="NVIDIA H100 80GB HBM3", cores=132, fpus_per_core=128, clock_ghz=1.98,
  shared_bytes_per_core=228 * _KIB, l2_bytes=50 * _KIB**2,
  memory_bytes=81_008 * _KIB**2,
)  # fmt: skip
GPUS = {
  "a100": Gpu(
    name="NVIDIA A100-SXM4-80GB", cores=108, fpus_per_core=64, clock_ghz=1.41,
    shared_bytes_per_core=164 * _KIB, l2_bytes=40 * _KIB**2,
    memory_bytes=81_158 * _KIB**2,
  ),
  "h100": _H100,
  "h200": dataclasses.replace(
    _H100, name="NVIDIA H200", memory_bytes=144_384 * _KIB**2
  ),
}  # fmt: skip


def devices(
  kind: str, gpus_per_node: int, nodes: int, hbm_bytes_per_s: float
) -> Sequence:
  """Returns GPUs that JAX can compile for, as if they were here.

  Args:
    kind: of GPUS.
    gpus_per_node, nodes: their number.
    hbm_bytes_per_s: bandwidth of a GPU's memory.
  """
  from jax.experimental import topologies

  return topologies.get_topology_desc(
    platform="cuda",
    topology=f"{nodes}x1x{gpus_per_node}",
    target_config=_target_config(GPUS[kind], hbm_bytes_per_s),
  ).devices


@contextlib.contextmanager
def taken_as_here() -> Iterator[None]:
  """Lets JAX trace cuDNN's attention for a Hopper GPU without one, nor cuDNN.

  JAX asks the machine at hand whether it can, not the devices of the mesh.
  """
  from jax._src.cudnn import fused_attention_stablehlo as jax_cudnn

  answers = {
    "check_cudnn_version": lambda: _CUDNN_VERSION,
    "check_compute_capability": lambda least: float(least) <= 9,
  }
  before = {name: getattr(jax_cudnn, name) for name in answers}
  vars(jax_cudnn).update(answers)
  try:
    yield
  finally:
    vars(jax_cudnn).update(before)


def _target_config(gpu: Gpu, hbm_bytes_per_s: float) -> str:
  """Returns XLA's description of a GPU, a GpuTargetConfigProto as text.

  All have Hopper's instructions, as XLA writes times of no older ones: an A100
  is a Hopper GPU with the cores and the memory of an A100.
  """
  return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: {48 * _KIB}
  shared_memory_per_block_optin: {gpu.shared_bytes_per_core - _KIB}
  shared_memory_per_core: {gpu.shared_bytes_per_core}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.fpus_per_core}
  clock_rate_ghz: {gpu.clock_ghz}
  l2_cache_size: {gpu.l2_bytes}
  memory_bandwidth: {int(hbm_bytes_per_s)}
  device_memory_size: {gpu.memory_bytes}
  cuda_compute_capability {{
    major: 9
    feature_extension: ACCELERATED_FEATURES
  }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "{gpu.name}"
"""
