"""Estimates the seconds of a compiled step: compute, kernels and links.

- Compute: the cycles that XLA expects of each operation, times the trips of the
  loops around it, over the clock. On GPUs, the time that XLA expects of each
  fusion, if it is no longer than to read and write all its arrays once; and
  matmuls, of which XLA's times are no good, as in `opaque_calls`.
- Kernels (Pallas, cuDNN), of which XLA knows nothing: see `opaque_calls`.
- Links: the bytes of an array that is gathered, scattered or passed on, and
  twice those of an all-reduce, over the bandwidth of the links between the
  devices of a group (`Topology.bytes_per_s`). What runs beside compute counts
  only as far as it takes longer: from its start in the schedule until the
  program waits for it, one transfer after the other, but for arrays that are
  passed on to both sides at once.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from t5x_lite.accounting import hlo, model_structure, opaque_calls
from t5x_lite.accounting.topologies import Topology

COLLECTIVES = (
  "all-gather", "all-reduce", "reduce-scatter", "all-to-all",
  "ragged-all-to-all", "collective-permute", "collective-broadcast",
)  # fmt: skip
_NO_MODULE = re.compile(
  r"while|body|cond|branch_\d+_fun|closed_call|eval_jaxpr|checkpoint|remat|"
  r"rematted_computation|shard_map"
)


@dataclasses.dataclass(frozen=True)
class Links:
  """Holds the traffic of one kind of collective over the same mesh axes.

  Attributes:
    kind: of COLLECTIVES.
    axes: mesh axes that a group of devices spans.
    count: collectives in a step.
    nbytes: of the arrays, per device and step.
    seconds: that the program waits for them.
  """

  kind: str
  axes: tuple[str, ...]
  count: int
  nbytes: int
  seconds: float


@dataclasses.dataclass(frozen=True)
class ProgramCosts:
  """Holds the estimated seconds of a step on one device.

  Attributes:
    compute_s: without kernels and links.
    kernel_s: of kernels that XLA cannot cost.
    recompute_s: part of the two: what rematerialisation computes again.
    links: most seconds first.
    by_module: compute and kernels by component ("decoder/mlp"), most first.
  """

  compute_s: float
  kernel_s: float
  recompute_s: float
  links: list[Links]
  by_module: dict[str, float]

  @property
  def link_s(self) -> float:
    """Returns the seconds that the program waits for links."""
    return sum(one.seconds for one in self.links)


def estimate(
  text: str,
  topology: Topology,
  mesh,
  visible: Callable[[str], float] = lambda module: 1.0,
) -> ProgramCosts:
  """Estimates the seconds of a compiled program.

  Args:
    text: the optimized HLO of a scheduled program (`Compiled.as_text`).
    topology: what it is compiled for.
    mesh: the jax.sharding.Mesh of the topology's devices.
    visible: returns the share of query-key pairs that the rule of a component
      ("decoder/attention") lets attend: what a kernel does not skip.
  """
  reader = _Reader(hlo.parse(text), topology, mesh, visible)
  reader.run(reader.program.entry, 1)
  links = [
    Links(kind, axes, int(count), int(nbytes), float(seconds))
    for (kind, axes), (count, nbytes, seconds) in reader.links.items()
  ]
  return ProgramCosts(
    reader.compute.total(),
    reader.kernels.total(),
    reader.recomputed,
    sorted(links, key=lambda one: -one.seconds),
    dict((reader.compute + reader.kernels).most_common()),
  )


def module(op_name: str) -> str:
  """Returns the component that an operation of a training step belongs to.

  "head" has the loss too, and "update" all that follows the gradient.
  """
  # Triton's operations end in the kernel's name and this.
  names = op_name.removesuffix("/pallas_call").split("/")[1:-1]
  if "Transformer.embed" in names:
    return "token_embedding"
  plain = [n for n in names if "(" not in n and not _NO_MODULE.fullmatch(n)]
  if any("jvp(" in name for name in names):
    return model_structure.component_of_scope(plain)
  found = model_structure.component_of_scope(plain)
  return "update" if found == "head" else found


class _Reader:
  """Runs through a program once, and adds up what it meets."""

  def __init__(self, program, topology, mesh, visible):
    self.program, self.topology = program, topology
    self.mesh, self.visible = mesh, visible
    self.compute, self.kernels = Counter(), Counter()
    self.recomputed = 0.0
    self.links: dict[tuple, np.ndarray] = {}

  def run(self, name: str, times: int) -> float:
    """Adds a computation that runs `times`; returns the seconds of one run."""
    now = 0.0  # The program's clock.
    free = {}  # When links are idle again, by what they are used for.
    under_way = {}  # What has started -> (collective, instruction, end).
    arrays, origins = {}, {}

    def wait(key, now):
      collective, one, end = under_way.pop(key)
      self._count(collective, one, times, max(0.0, end - now))
      return max(now, end)

    for one in self.program.computations[name]:
      arrays[one.name] = one.outputs
      # Some kernels come without a name: they are of what they read.
      read = (origins.get(operand) for operand in one.operands)
      origins[one.name] = one.op_name or next(filter(None, read), "")
      collective = self._collective(one)
      key, part = _part(one, collective)
      if part == "done" and key in under_way:
        now = wait(key, now)
      elif part in ("start", "whole"):
        lane = _lane(collective)
        busy = (end for used, end in free.items() if None in (lane, used))
        begin = max(now, free.get(lane, 0.0), *busy, 0.0)
        free[lane] = begin + self._transfer_s(collective, one)
        under_way[key] = collective, one, free[lane]
        now = wait(key, now) if part == "whole" else now
      else:
        now += self._compute(name, one, arrays, origins[one.name], times)
    for key in list(under_way):  # Waited for in the next trip of a loop.
      now = wait(key, now)
    return now

  def _compute(self, name, one, arrays, origin, times) -> float:
    """Adds an operation that is no collective; returns its seconds."""
    if one.opcode == "while":
      trips = self.program.trips(name, one)
      return trips * self.run(one.called("body"), times * trips)
    if one.opcode == "conditional":  # The branch that takes longest.
      costs = {
        name: sum(map(self._xla_s, self.program.computations[name]))
        for name in one.branches
      }
      return self.run(max(costs, key=costs.get), times)
    if one.opcode == "call":
      return self.run(one.called("to_apply"), times)
    where = module(origin)
    read = [array for name in one.operands for array in arrays[name]]
    if seconds := self._xla_s(one, read):
      self.compute[where] += times * seconds
    elif seconds := opaque_calls.matmul_s(one, read, self.topology.chip):
      self.compute[where] += times * seconds
    elif seconds := opaque_calls.kernel_s(
      one, read, self.topology.chip, lambda: self.visible(where)
    ):
      self.kernels[where] += times * seconds
    if "rematted_computation" in origin:
      self.recomputed += times * seconds
    return seconds

  def _xla_s(self, one, read=()) -> float:
    """Returns what XLA expects an operation to take, 0 if it says nothing.

    Args:
      one: an instruction.
      read: the arrays that it reads, if they are known.
    """
    chip = self.topology.chip
    if chip.clock_hz:
      return one.cycles / chip.clock_hz
    # XLA takes a norm by Triton for a loop that reads its row for each element.
    once = sum(array.nbytes for array in (*read, *one.outputs))
    most = once / chip.hbm_bytes_per_s if read else math.inf
    return min(one.microseconds * 1e-6, most)

  def _collective(self, one) -> hlo.Instruction | None:
    """Returns the collective that an instruction is, or holds."""
    if one.opcode.removesuffix("-start") in COLLECTIVES:
      return one
    if one.opcode == "recv" and one.between_slices:
      return one
    if one.opcode not in ("fusion", "async-start"):
      return None
    called = self.program.computations[one.called("calls")]
    inside = (i for i in called if i.opcode in COLLECTIVES)
    return next(inside, None)

  def _transfer_s(self, collective, one) -> float:
    kind, nbytes, devices = self._traffic(collective, one)
    speed = self.topology.bytes_per_s(devices)
    return nbytes * (2 if kind == "all-reduce" else 1) / speed

  def _traffic(self, collective, one) -> tuple[str, int, Sequence]:
    """Returns a collective's kind, the bytes of its arrays, and its group."""
    if collective.between_slices:
      # The first mesh axis crosses slices (Layout.num_slices).
      group = self.mesh.devices.reshape(len(self.mesh.devices), -1)[:, 0]
      return collective.between_slices, collective.outputs[0].nbytes, group
    kind = collective.opcode.removesuffix("-start")
    places = hlo.group(collective)
    devices = list(self.mesh.devices.flat)
    group = [devices[i] for i in places] if places else devices
    nbytes = sum(array.nbytes for array in collective.outputs)
    if collective.opcode in ("all-gather-start", "reduce-scatter-start"):
      # Of its inputs and outputs, the larger are the group's times the others.
      nbytes = nbytes * len(group) // (len(group) + 1)
    elif collective.opcode == "all-to-all-start":
      nbytes //= 2  # Inputs and outputs.
    elif collective.opcode == "collective-permute-start":
      nbytes = collective.outputs[0].nbytes
    elif kind == "reduce-scatter":
      nbytes *= len(group)
    smaller = sum(array.nbytes for array in one.outputs) < nbytes
    if kind == "all-reduce" and one.opcode == "fusion" and smaller:
      kind = "reduce-scatter"  # And keeps its part of the sum.
    return kind, nbytes, group

  def _count(self, collective, one, times, waited):
    kind, nbytes, group = self._traffic(collective, one)
    key = kind, self._axes(group)
    seen = np.array([times, times * nbytes, times * waited])
    self.links[key] = self.links.get(key, 0) + seen

  def _axes(self, group) -> tuple[str, ...]:
    """Returns the mesh axes along which a group's devices differ."""
    place = {d.id: at for at, d in np.ndenumerate(self.mesh.devices)}
    places = np.array([place[device.id] for device in group])
    differ = (places != places[0]).any(axis=0)
    return tuple(np.array(self.mesh.axis_names)[differ].tolist())


def _lane(collective: hlo.Instruction) -> tuple[int, ...] | None:
  """Returns which links a collective uses; None: all of its group's.

  What is passed on to neighbours on either side uses other links.
  """
  if "collective-permute" in collective.opcode:
    return tuple(hlo.group(collective))
  return None


def _part(
  one: hlo.Instruction, collective: hlo.Instruction | None
) -> tuple[str | None, str]:
  """Returns which collective an instruction is a part of, and which part.

  "start" and "done" frame what runs beside it. On TPUs they may be fusions; the
  fusions between them, which move it on beside their compute, are "compute".
  """
  if one.opcode.endswith("-done"):
    return one.operands[0], "done"
  if collective is None:
    return None, "compute"
  if one.opcode.endswith("-start") or one.opcode == "recv":
    return one.name, "start"
  if one.opcode != "fusion":
    return one.name, "whole"
  if one.name.startswith("async-collective-start"):
    return collective.channel, "start"
  if one.name.startswith("async-collective-done"):
    return collective.channel, "done"
  if (one.called("calls") or "").startswith("async_collective_fusion"):
    return collective.channel, "compute"
  return one.name, "whole"
