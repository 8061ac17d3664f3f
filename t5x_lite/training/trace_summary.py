"""Summarises a profiler's trace: operations, matmuls and idle time."""

import collections
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

_HOST = "/host:"
_OPS_LINE = "XLA Ops"  # Of a TPU: other lines have the same time once more.

# Of optimized HLO text.
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^ +(?:ROOT )?%?([\w.-]+) = .*? ([a-z][\w-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_MATMULS = ("dot", "convolution", "ragged-dot")
# Libraries' matmuls and attention, and Pallas kernels, which are either.
_MATMUL_TARGETS = re.compile(
  r"gemm|matmul|dot|conv|cudnn|fmha|attention|tpu_custom_call|mosaic|triton",
  re.IGNORECASE,
)

# (start, end, name), in ns.
_Event = tuple[float, float, str]


class Summary(NamedTuple):
  """Holds where the devices' time went.

  Attributes:
    seconds: from the first operation's start to the last one's end.
    devices: the number of devices with operations.
    operations: {name: seconds}, without those of operations inside (a loop's
      body), of all devices, the longest first.
    matmuls: the operations that multiply matrices.
    idle: the mean share of the time in which a device ran nothing.
  """

  seconds: float
  devices: int
  operations: Mapping[str, float]
  matmuls: frozenset[str]
  idle: float

  @property
  def matmul_share(self) -> float:
    """Returns the share of the operations' time that matmuls take."""
    inside = sum(t for name, t in self.operations.items() if self._is(name))
    return inside / sum(self.operations.values())

  def _is(self, name: str) -> bool:
    return name in self.matmuls

  def lines(self, top: int = 10) -> list[str]:
    """Returns the summary as lines, with the longest operations."""
    total = sum(self.operations.values())
    shown = list(self.operations.items())[:top]
    return [
      f"  {self.seconds:.3f} s on {self.devices} devices, idle {self.idle:.1%};"
      f" matmuls {self.matmul_share:.1%} of the operations' time",
      *(
        f"  {seconds / total:6.1%}  {name}{' (matmul)' * self._is(name)}"
        for name, seconds in shown
      ),
    ]


def read(path: str, program: str) -> Summary | None:
  """Summarises a trace.

  Args:
    path: the .xplane.pb file that jax.profiler wrote.
    program: the text of the compiled program, which says what is a matmul.

  Returns:
    The summary, or None if the trace has no operations.
  """
  by_device = collections.defaultdict(list)
  seconds = collections.Counter()
  for device, events in _timelines(jax.profiler.ProfileData.from_file(path)):
    by_device[device] += events
    for name, nanoseconds in _own_times(events):
      seconds[name] += nanoseconds / 1e9
  if not seconds:
    return None
  events = [event for found in by_device.values() for event in found]
  whole = max(end for _, end, _ in events) - min(
    start for start, _, _ in events
  )
  busy = sum(map(_covered, by_device.values())) / len(by_device)
  return Summary(
    seconds=whole / 1e9,
    devices=len(by_device),
    operations=dict(seconds.most_common()),
    matmuls=matmuls(program),
    idle=1 - busy / whole,
  )


def matmuls(program: str) -> frozenset[str]:
  """Returns the instructions that multiply matrices, in fusions too.

  Args:
    program: optimized HLO, `jax.stages.Compiled.as_text()`.
  """
  found, inside, computation = set(), set(), ""
  for line in program.splitlines():  # Computations stand before their callers.
    if match := _COMPUTATION.match(line):
      computation = match[1]
    elif match := _INSTRUCTION.match(line):
      name, opcode = match.groups()
      called = _CALLED.search(line) if opcode in ("fusion", "call") else None
      target = _TARGET.search(line) if opcode == "custom-call" else None
      if (
        opcode in _MATMULS
        or (called and called[1] in inside)
        or (target and _MATMUL_TARGETS.search(target[1]))
      ):
        found.add(name)
        inside.add(computation)
  return frozenset(found)


def _timelines(data: Any) -> Iterator[tuple[str, list[_Event]]]:
  """Yields the device and the operations of each line of a trace."""
  for plane in data.planes:
    lines = list(plane.lines)
    has_ops_line = any(line.name == _OPS_LINE for line in lines)
    for line in lines:
      if has_ops_line and line.name != _OPS_LINE:
        continue
      found = collections.defaultdict(list)
      for event in line.events:
        stats = dict(event.stats)
        if not has_ops_line and "hlo_op" not in stats:
          continue
        # A CPU's devices share the host's plane.
        on_host = plane.name.startswith(_HOST)
        ordinal = stats.get("device_ordinal", 0) if on_host else ""
        # A TPU's names are whole instructions: "%fusion.1 = f32[] fusion(".
        name = stats.get("hlo_op") or event.name.split(" = ")[0].lstrip("%")
        found[f"{plane.name}{ordinal}"].append(
          (event.start_ns, event.start_ns + event.duration_ns, name)
        )
      yield from found.items()


def _own_times(events: Iterable[_Event]) -> Iterator[tuple[str, float]]:
  """Yields each operation's time without that of the operations inside it."""
  around = []  # [end, name, own time] of what is under way.
  for start, end, name in sorted(events, key=lambda e: (e[0], -e[1])):
    while around and around[-1][0] <= start:
      yield tuple(around.pop()[1:])
    if around:
      around[-1][2] -= end - start
    around.append([end, name, end - start])
  yield from (tuple(one[1:]) for one in around)


def _covered(events: Iterable[_Event]) -> float:
  """Returns the time in which at least one of the events is under way."""
  covered, until = 0.0, float("-inf")
  for start, end, _ in sorted(events):
    covered += max(0.0, end - max(start, until))
    until = max(until, end)
  return covered
