"""Reads the text of compiled programs (XLA's optimized HLO).

    %while.75 = (s32[], bf16[4,8]{1,0}) while(%tuple.2), condition=%c, body=%b,
      metadata={op_name="jit(step)/decoder/while"}

It knows the format and nothing of costs. All that depends on it is here.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

_BITS = {"pred": 8, "s4": 4, "u4": 4, "token": 0, "opaque": 0}
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"(?:ROOT )?%?([\w.\-]+) = (.*)", re.S)
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
  """Holds the type of an array: "bf16", (4, 8)."""

  dtype: str
  shape: tuple[int, ...]

  @property
  def size(self) -> int:
    """Returns the number of elements."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """Returns the bytes without padding."""
    # "f8e4m3fn" has 8 bits, "bf16" 16.
    digits = re.match(r"[a-z]+(\d+)", self.dtype)
    bits = _BITS.get(self.dtype) or int(digits[1] if digits else 0)
    return self.size * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
  """Holds one line of a program.

  Attributes:
    name: unique in its computation.
    opcode: "fusion", "all-gather", "while", ...
    outputs: the arrays it makes; several of a tuple.
    operands: the names of what it reads.
    text: its attributes: all that follows the operands.
  """

  name: str
  opcode: str
  outputs: tuple[Array, ...]
  operands: tuple[str, ...]
  text: str

  @property
  def op_name(self) -> str:
    """Returns the module and operation that it was compiled from."""
    found = re.search(r'op_name="([^"]*)"', self.text)
    return found[1] if found else ""

  @property
  def cycles(self) -> int:
    """Returns the cycles that XLA expects it to take; 0 if it says none."""
    found = re.search(r'"estimated_cycles":"(\d+)"', self.text)
    return int(found[1]) if found else 0

  @property
  def microseconds(self) -> float:
    """Returns the time that XLA expects a GPU's fusion to take, or 0."""
    if self.opcode != "fusion":
      return 0.0
    found = re.findall(r'"exec_time_us":([\d.e+-]+)', self.text)
    return max(map(float, found), default=0.0)

  def called(self, attribute: str) -> str | None:
    """Returns the name of a computation that it runs, as `body` or `calls`."""
    found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.text)
    return found[1] if found else None

  @property
  def channel(self) -> str | None:
    """Returns the number that all parts of one collective share."""
    found = re.search(r"channel_id=(\d+)", self.text)
    return found[1] if found else None

  @property
  def between_slices(self) -> str | None:
    """Returns the kind of collective that it is one slice's part of.

    XLA turns collectives that cross slices into a send to the host and a
    receive from it, with attributes for the library that does the rest.
    """
    found = re.search(r'_xla_megascale_transfer_type="(\w+)"', self.text)
    return found[1].lower().replace("_", "-") if found else None

  @property
  def branches(self) -> list[str]:
    """Returns the computations of which a conditional runs one."""
    found = re.search(r"branch_computations=\{([^}]*)\}", self.text)
    if found:
      return _NAME.findall(found[1])
    names = map(self.called, ("true_computation", "false_computation"))
    return [name for name in names if name]


@dataclasses.dataclass(frozen=True)
class Program:
  """Holds the computations of a program, by name; lines in running order."""

  computations: dict[str, list[Instruction]]
  entry: str

  def trips(self, name: str, loop: Instruction) -> int:
    """Returns how often a while loop runs; 1 where the program does not say.

    It does where the loop's condition compares an element of what it carries
    with a constant, and the loop adds a constant to it: most add 1; loops that
    XLA has unrolled, of matmuls that overlap their own gathers, add 2.

    Some programs have the number at the loop itself.

    Args:
      name: the computation that the loop is in.
      loop: the instruction.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.text)
    if known:
      return int(known[1])
    condition = self._by_name(loop.called("condition"))
    for test in condition.values():
      limit, index = None, None
      for operand in test.operands if test.opcode == "compare" else ():
        value = _constant(condition, operand)
        limit = limit if value is None else value
        index = _index(condition.get(operand)) if value is None else index
      if limit is not None and index is not None:
        start = self._start(name, loop, index)
        step = self._step(loop.called("body"), index)
        return max(1, -(-(limit - start) // step))
    return 1

  def _by_name(self, name) -> dict[str, Instruction]:
    return {one.name: one for one in self.computations[name]}

  def _start(self, name, loop, index) -> int:
    """Returns what an element is before the loop, 0 if it is not known."""
    around = self._by_name(name)
    carried = around.get(loop.operands[0])
    if carried is None or carried.opcode != "tuple":
      return 0
    return _constant(around, carried.operands[index]) or 0

  def _step(self, body, index) -> int:
    """Returns what a loop's body adds to an element, 1 if it is not known."""
    inside = self._by_name(body)
    root = self.computations[body][-1]
    if root.opcode != "tuple":
      return 1
    added = inside.get(_source(inside, root.operands[index]))
    if added is None or added.opcode != "add":
      return 1
    values = (_constant(inside, name) for name in added.operands)
    return next((value for value in values if value), 1)


def _source(instructions, name: str) -> str:
  """Follows copies of an array to what they copy."""
  while (one := instructions.get(name)) and one.opcode == "copy":
    name = one.operands[0]
  return name


def _constant(instructions, name: str) -> int | None:
  """Returns the value of an integer constant, or of a copy of one."""
  one = instructions.get(_source(instructions, name))
  if one is None or one.opcode != "constant":
    return None
  value = re.match(r"\((-?\d+)\)", one.text)
  return int(value[1]) if value else None


def _index(one: Instruction | None) -> int | None:
  """Returns which element a get-tuple-element takes."""
  if one is None or one.opcode != "get-tuple-element":
    return None
  found = re.search(r"index=(\d+)", one.text)
  return int(found[1]) if found else None


def parse(text: str) -> Program:
  """Reads a program.

  Raises:
    ValueError: the text is no program.
  """
  computations, entry, current = {}, None, None
  for line in _lines(text):
    if head := _HEAD.match(line):
      current = computations.setdefault(head[2], [])
      entry = head[2] if head[1] else entry
    elif current is not None and (found := _INSTRUCTION.match(line)):
      current.append(_instruction(*found.groups()))
  if entry is None:
    raise ValueError("the compiled program has no entry")
  return Program(computations, entry)


def _lines(text) -> Iterator[str]:
  """Yields lines of the program, those that go on put together."""
  line = ""
  for part in text.splitlines():
    stripped = part.strip()
    starts = _INSTRUCTION.match(stripped) or part[:1] in ("%", "}", "E")
    if starts and line:
      yield line
      line = ""
    line = f"{line} {stripped}".strip()
  yield line


def _instruction(name, rest) -> Instruction:
  kind, rest = _balanced(rest) if rest[0] == "(" else rest.split(" ", 1)
  opcode, bracket, rest = rest.strip().partition("(")
  inside, text = _balanced(bracket + rest)
  if opcode == "constant":
    text = inside + text
  return Instruction(
    name,
    opcode,
    tuple(
      Array(dtype, tuple(int(n) for n in dims.split(",") if n))
      for dtype, dims in _SHAPE.findall(re.sub(r"\{[^}]*\}", "", kind))
    ),
    tuple(_NAME.findall(inside)),
    text,
  )


def _balanced(text) -> tuple[str, str]:
  """Cuts a text after the bracket that closes its first."""
  depth = 0
  for i, character in enumerate(text):
    depth += (character == "(") - (character == ")")
    if not depth:
      return text[: i + 1], text[i + 1 :]
  raise ValueError(f"unbalanced brackets in the compiled program: {text[:80]}")


def group(collective: Instruction) -> list[int]:
  """Returns the places of the first devices that exchange arrays.

  A place is a device's number in the mesh, counted from 0, row by row. XLA
  writes groups in three ways:

      replica_groups={{0,1},{2,3}}
      replica_groups=[2,2]<=[2,2]T(1,0)
      replica_groups=mesh['a'=2,'b'=2] {'a'}

  An empty list: all devices.
  """
  text = collective.text
  if pairs := re.search(r"source_target_pairs=\{(\{.*?\})\}", text):
    ends = re.findall(r"(\d+),(\d+)", pairs[1])
    # Some devices send to themselves.
    return next(([int(a), int(b)] for a, b in ends if a != b), [0])
  if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
    return [int(n) for n in listed[1].split(",")]
  iota = re.search(
    r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text
  )
  if iota:
    shape, dims, order = (
      tuple(map(int, part.split(","))) if part else None
      for part in iota.groups()
    )
    places = np.arange(math.prod(dims)).reshape(dims).transpose(order)
    return places.reshape(shape)[0].tolist()
  mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}", text)
  if mesh:
    sizes = {k: int(v) for k, v in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
    places = np.arange(math.prod(sizes.values()))
    order = re.search(r"\(\[([\d,]+)\]T\(([\d,]+)\)\)", mesh[2])
    if order:
      dims, axes = (tuple(map(int, part.split(","))) for part in order.groups())
      places = places.reshape(dims).transpose(axes)
    return _along(places.reshape(tuple(sizes.values())), sizes, mesh[3])
  return []


def _along(places, sizes, axes) -> list[int]:
  """Returns the places along the named axes, at the start of the others.

  An axis may be cut: `'a':(2)4` are 4 of its places, 2 apart from a part of 2
  to the next.
  """
  index = [[0]] * len(sizes)
  for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", axes):
    at, whole = list(sizes).index(name), sizes[name]
    step = whole // (int(before) * int(size)) if size else 1
    index[at] = [step * i for i in range(int(size) if size else whole)]
  return places[np.ix_(*index)].ravel().tolist()
