"""Names the accelerators that a step can be planned for, and their speeds.

Figures are per device of JAX: a chip, or one of the two cores of a TPU7x.
Peaks, clocks and links are the makers' own:

- TPUs: https://docs.cloud.google.com/tpu/docs/system-architecture-tpu-vm, a
  page for each version; peak = matrix units x their size^2 x 2 x clock. Links:
  https://jax-ml.github.io/scaling-book/tpus (one way, each of 4 or 6).
- GPUs: NVIDIA's data sheets of A100, H100 SXM and H200 (dense bf16).

`hbm_bytes` is what XLA has to give away, less than is built in.
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence

from t5x_lite.accounting import absent_gpus
from t5x_lite.devices import libtpu_flags
from t5x_lite.files.near_names import did_you_mean, near

_GIB = 2**30


class NoCompiler(Exception):
  """Raised where nothing installed compiles for a topology."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """Holds what one device can do.

  Attributes:
    peak_flops: bf16 FLOP/s of its matrix units.
    clock_hz: what the compiler's cycles are of; None for GPUs.
    hbm_bytes: memory that a program can use.
    hbm_bytes_per_s: bandwidth of that memory.
    link_bytes_per_s: of one link to a neighbour, one way; for GPUs of all links
      of one GPU to the switch that joins a node's.
    network_bytes_per_s: between slices or nodes, one way.
    dims: of the network that the chips of a slice form: 2 or 3; 0: a switch.
    wraps_at: a dim of a multiple of this length is a ring.
    cores: devices per chip.
  """

  peak_flops: float
  clock_hz: float | None = None
  hbm_bytes: int
  hbm_bytes_per_s: float
  link_bytes_per_s: float
  network_bytes_per_s: float
  dims: int = 0
  wraps_at: int = 0
  cores: int = 1


CHIPS = {
  "v4": Chip(
    peak_flops=275e12, clock_hz=1.05e9, hbm_bytes=int(30.75 * _GIB),
    hbm_bytes_per_s=1.2e12, link_bytes_per_s=4.5e10, network_bytes_per_s=6.25e9,
    dims=3, wraps_at=4,
  ),
  "v5e": Chip(
    peak_flops=197e12, clock_hz=1.5e9, hbm_bytes=int(15.75 * _GIB),
    hbm_bytes_per_s=8.2e11, link_bytes_per_s=4.5e10,
    network_bytes_per_s=3.125e9, dims=2, wraps_at=16,
  ),
  "v5p": Chip(
    peak_flops=459e12, clock_hz=1.75e9, hbm_bytes=int(95.74 * _GIB),
    hbm_bytes_per_s=2.77e12, link_bytes_per_s=9e10, network_bytes_per_s=6.25e9,
    dims=3, wraps_at=4,
  ),
  "v6e": Chip(
    peak_flops=918e12, clock_hz=1.75e9, hbm_bytes=int(31.25 * _GIB),
    hbm_bytes_per_s=1.64e12, link_bytes_per_s=9e10, network_bytes_per_s=1.25e10,
    dims=2, wraps_at=16,
  ),
  "tpu7x": Chip(
    peak_flops=1153.5e12, clock_hz=2.2e9, hbm_bytes=int(94.75 * _GIB),
    hbm_bytes_per_s=3.69e12, link_bytes_per_s=4.5e10,
    network_bytes_per_s=6.25e9, dims=3, wraps_at=4, cores=2,
  ),
  "a100": Chip(
    peak_flops=312e12, hbm_bytes=int(79.2 * _GIB), hbm_bytes_per_s=2.04e12,
    link_bytes_per_s=3e11, network_bytes_per_s=2.5e10,
  ),
  "h100": Chip(
    peak_flops=989e12, hbm_bytes=int(79.2 * _GIB), hbm_bytes_per_s=3.35e12,
    link_bytes_per_s=4.5e11, network_bytes_per_s=5e10,
  ),
  "h200": Chip(
    peak_flops=989e12, hbm_bytes=int(139.8 * _GIB), hbm_bytes_per_s=4.8e12,
    link_bytes_per_s=4.5e11, network_bytes_per_s=5e10,
  ),
}  # fmt: skip
# Slices of 2 dims, and those of 3 that are no whole cubes of 4 x 4 x 4.
_SHAPES = {
  2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
  3: ("2x2x1", "2x2x2", "2x2x4", "2x4x4"),
}
# Some made of whole cubes, to suggest.
_CUBES = ("4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
_MAX_CHIPS = 9216
_CUDA_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
_GPUS_PER_NODE = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True)
class Topology:
  """Describes slices of TPUs, or nodes of GPUs.

  Attributes:
    name: as it was asked for: "v5p:4x4x4", "h100x8".
    kind: of CHIPS.
    shape: chips along each dim of a slice; of GPUs (number,).
    num_slices: slices, or nodes, joined by a slower network.
  """

  name: str
  kind: str
  shape: tuple[int, ...]
  num_slices: int = 1

  @property
  def chip(self) -> Chip:
    """Returns what each device can do."""
    return CHIPS[self.kind]

  @property
  def wrap(self) -> tuple[bool, ...]:
    """Returns which dims are rings rather than open lines.

    Those of v4, v5p and TPU7x are rings where a slice is made of whole cubes of
    4 x 4 x 4; those of v5e and v6e where they are 16 long.
    """
    at = self.chip.wraps_at
    rings = [at > 0 and length % at == 0 for length in self.shape]
    return tuple(rings if self.chip.dims == 2 else [all(rings)] * len(rings))

  @property
  def num_devices(self) -> int:
    """Returns the number of JAX's devices in all slices."""
    return math.prod(self.shape) * self.chip.cores * self.num_slices

  def bytes_per_s(self, devices: Sequence) -> float:
    """Returns the bytes per second that each device of a group can receive.

    Each dim of the torus along which the group extends brings the bandwidth of
    a link: of two where the group goes round a ring, as each device then
    receives from both sides, while the first of a line has one neighbour. A
    group with gaps between its devices (those of a diagonal) shares the links
    with the groups in them, and has those of its share.

    Args:
      devices: of `devices`, or of GPUs any number.
    """
    chip = self.chip
    # A node of GPUs is a process.
    joined = "slice_index" if chip.dims else "process_index"
    if len({getattr(d, joined, 0) for d in devices}) > 1:
      return chip.network_bytes_per_s
    if not chip.dims:
      return chip.link_bytes_per_s
    links, box = 0, 1
    for dim, (length, ring) in enumerate(
      zip(self.shape, self.wrap, strict=True)
    ):
      extent = len({device.coords[dim] for device in devices})
      box *= extent
      if extent > 1:
        links += 2 if ring and extent == length else 1
    if not links:  # Two cores of one chip share its memory.
      return chip.hbm_bytes_per_s
    chips = len({tuple(device.coords) for device in devices})
    return max(1, links * chips / box) * chip.link_bytes_per_s

  def assumed_bytes_per_s(self, *, crosses: bool) -> float:
    """Returns the same of a group whose devices are not known.

    It is taken to extend along all dims; or from slice to slice, if it
    `crosses` them.
    """
    if crosses:
      return self.chip.network_bytes_per_s
    if not self.chip.dims:
      return self.chip.link_bytes_per_s
    links = sum(2 if ring else 1 for ring in self.wrap)
    return links * self.chip.link_bytes_per_s

  def devices(self) -> Sequence:
    """Returns devices that JAX can compile for, as if they were here.

    Raises:
      NoCompiler: nothing installed compiles for them.
    """
    if not self.chip.dims:
      return self._gpus()
    if importlib.util.find_spec("libtpu") is None:
      raise NoCompiler("libtpu is not installed: pip install t5x_lite[plan]")
    # Without these, libtpu asks the network where it is, prints warnings, and
    # lets no two processes load it, though none of them uses a TPU.
    for name, value in (
      ("TPU_SKIP_MDS_QUERY", "1"),
      ("TPU_ACCELERATOR_TYPE", "v5p-8"),
      ("TPU_WORKER_HOSTNAMES", "localhost"),
      ("TPU_LOG_DIR", "disabled"),
      ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
    ):
      os.environ.setdefault(name, value)
    libtpu_flags.set_flags()  # Those of a run there.
    from jax.experimental import topologies

    shape = (*self.shape, 1, 1)[:3]
    options = {"wrap": (*self.wrap, False, False)[:3]}
    if self.kind == "v4":  # One device a chip, as where there is one.
      options["chip_config_name"] = "megacore"
    if math.prod(shape) == 1:
      options["chips_per_host_bounds"] = shape
    if self.num_slices > 1:
      options["num_slices"] = self.num_slices
    name = f"{self.kind}:{'x'.join(map(str, self.shape))}"
    return topologies.get_topology_desc(
      platform="tpu", topology_name=name, **options
    ).devices

  def _gpus(self) -> Sequence:
    if not any(map(importlib.util.find_spec, _CUDA_PLUGINS)):
      raise NoCompiler(
        "JAX's CUDA plugin is not installed: pip install t5x_lite[plan]"
      )
    return absent_gpus.devices(
      self.kind, *self.shape, self.num_slices, self.chip.hbm_bytes_per_s
    )


def parse(name: str, num_slices: int = 1) -> Topology:
  """Returns the topology of a name, such as "v5p:4x4x4" or "h100x8".

  Raises:
    ValueError: there is none.
  """
  found = _parsed(name.strip().lower(), num_slices)
  if found is None:
    near_names = near(name.lower(), _known(), cutoff=0.5)
    raise ValueError(
      f"topology={name} is none that exists{did_you_mean(near_names)} (TPUs "
      "are v4:, v5p: or tpu7x:AxBxC and v5e: or v6e:AxB, in chips; GPUs a100x8,"
      " h100x8 and h200x8)"
    )
  return found


def _known() -> list[str]:
  """Lists names to suggest."""
  names = []
  for kind, chip in CHIPS.items():
    shapes = _SHAPES.get(chip.dims, ()) + (_CUBES if chip.dims == 3 else ())
    names += [f"{kind}:{shape}" for shape in shapes] or [f"{kind}x8"]
  return names


def _parsed(name, num_slices) -> Topology | None:
  if gpus := re.fullmatch(r"([a-z]\d+)x(\d+)", name):
    kind, shape = gpus[1], (int(gpus[2]),)
    if kind not in CHIPS or shape[0] not in _GPUS_PER_NODE:
      return None
    return Topology(name, kind, shape, num_slices)
  kind, _, sizes = name.partition(":")
  dims = CHIPS[kind].dims if kind in CHIPS else 0
  if not dims or not re.fullmatch(r"[1-9]\d?(x[1-9]\d?)+", sizes):
    return None
  shape = tuple(map(int, sizes.split("x")))
  cubes = dims == len(shape) == 3 and not any(n % 4 for n in shape)
  exists = sizes in _SHAPES[dims] or cubes
  if not exists or math.prod(shape) > _MAX_CHIPS:
    return None
  return Topology(name, kind, shape, num_slices)
