"""Estimates the seconds of a compiled step: compute, kernels and links.

- Compute: the cycles that XLA expects of each operation, times the trips of the
  loops around it, over the clock; of GPUs its microseconds.
- Kernels (Pallas, cuDNN), of which XLA knows no cycles: their FLOPs at `KERNEL_SHARE`
  of the peak, or their bytes at the memory's bandwidth if that is longer. FLOPs
  are those that a kernel states of itself (`pl.CostEstimate`). One that states
  none is taken for attention: 2 |queries| S per matmul and visible pair, two
  matmuls forward; backward two that are computed again, and one per gradient
  and one more for the gradient of the scores.
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

from t5x_lite.accounting import absent_gpus, hlo, model_structure
from t5x_lite.accounting.topologies import Topology

KERNEL_SHARE = 0.48
COLLECTIVES = (
  "all-gather", "all-reduce", "reduce-scatter", "all-to-all",
  "ragged-all-to-all", "collective-permute", "collective-broadcast",
)  # fmt: skip
_FLOATS = ("bf16", "f16", "f32")
_KERNEL = re.compile(
  r'"(tpu_custom_call|__gpu\$xla\.gpu\.triton|__cudnn\$fmha)'
)
_NO_MODULE = (
  "while", "body", "cond", "closed_call", "eval_jaxpr", "checkpoint", "remat",
  "rematted_computation", "shard_map",
)  # fmt: skip


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
  names = op_name.split("/")[1:-1]
  if "Transformer.embed" in names:
    return "token_embedding"
  plain = [n for n in names if "(" not in n and n not in _NO_MODULE]
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
    if seconds := self._xla_s(one):
      self.compute[where] += times * seconds
    elif one.opcode == "custom-call" and _KERNEL.search(one.text):
      read = [array for name in one.operands for array in arrays[name]]
      seconds = self._kernel_s(one, read, where)
      self.kernels[where] += times * seconds
    else:
      return 0.0
    if "rematted_computation" in origin:
      self.recomputed += times * seconds
    return seconds

  def _xla_s(self, one) -> float:
    """Returns what XLA expects an operation to take, 0 if it says nothing."""
    chip = self.topology.chip
    if chip.clock_hz:
      return one.cycles / chip.clock_hz
    slower = 1.0
    if "__cublas" in one.text:
      slower = absent_gpus.MEASURED_PEAK_FLOPS / chip.peak_flops
    return slower * one.microseconds * 1e-6

  def _kernel_s(self, one, read, where) -> float:
    chip = self.topology.chip
    stated = re.search(r'"cost_estimate":\{[^}]*"flops":"?(\d+)', one.text)
    if stated:
      flops = float(stated[1])
    elif "__cudnn$fmha" in one.text:
      flops = cudnn_flops(one) * self.visible(where)
    else:
      flops = attention_flops(read, one.outputs) * self.visible(where)
    nbytes = sum(array.nbytes for array in (*read, *one.outputs))
    return max(
      flops / (KERNEL_SHARE * chip.peak_flops), nbytes / chip.hbm_bytes_per_s
    )

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

  It states the shape of the logits, [B, N, T, S]. A backward pass computes them
  again, and makes four gradients.
  """
  text = re.search(
    r'"intermediate_tensor_shape":.*?"dimensions":\s*\[([^]]*)\]', one.text
  )
  logits = math.prod(int(n) for n in re.findall(r"\d+", text[1]))
  matmuls = 5 if "Backward" in one.text else 2
  return 2.0 * logits * one.outputs[0].shape[-1] * matmuls
