"""Tables: which tensor of a Hugging Face file is which parameter of ours.

A family's table is one constant. `{i}` stands for the layer, in both names;
`{e}`, in theirs alone, for the expert, whose parameters we keep stacked.

    Entry("h.{i}.mlp.c_fc.weight", "decoder/layer_{i}/mlp/wi/kernel")

An entry counts where a model has its parameter, so that one table serves all
sizes and options: biases or none, a head of its own or a tied one. That none
is forgotten on either side is checked when the table meets a model and a file.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from t5x_lite.files import trees
from t5x_lite.interop import patterns

_LAYER = re.compile(r"(?:.*/)?layer_(\d+)/.*")
_STACKED = re.compile(r"((?:.*/)?)layers/layer_(\d+)/(.*)")


@dataclasses.dataclass(frozen=True)
class Entry:
  """Ties one name of theirs to one of ours, or to several.

  Attributes:
    theirs: name in the file.
    ours: path of the parameter, or paths of those that it holds.
    pattern: of the dims (patterns.py); "" keeps them.
  """

  theirs: str
  ours: str | tuple[str, ...]
  pattern: str = ""

  def under(self, theirs: str, ours: str) -> "Entry":
    """Returns the entry with these before its names."""
    names = (self.ours,) if isinstance(self.ours, str) else self.ours
    return Entry(
      theirs + self.theirs, tuple(ours + name for name in names), self.pattern
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """Says what a family's files hold.

  Attributes:
    entries: the tensors.
    copies: name -> the name that it repeats, as a tied head does; written by
      some, and read only to see that it does repeat it.
    unread: regular expressions of names that are no parameters of ours:
      buffers, heads of other tasks.
    renames: pairs (regular expression, replacement) by which names of older
      files become those of `entries`.
  """

  entries: Sequence[Entry]
  copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
  unread: Sequence[str] = ()
  renames: Sequence[tuple[str, str]] = ()


class Projection(NamedTuple):
  """How a projection's kernel and bias lie in theirs."""

  kernel: str
  bias: str


# torch's Linear holds [out, in].
LINEAR = Projection("O I -> I O", "O -> O")
TO_HEADS = Projection("(N H) D -> D N H", "(N H) -> N H")
FROM_HEADS = Projection("D (N H) -> N H D", "D -> D")

# GPT's Conv1D holds [in, out], and queries, keys and values side by side.
CONV1D = Projection("I O -> I O", "O -> O")
CONV1D_TO_HEADS = Projection("D ([1 1 1] N H) -> D N H", "([1 1 1] N H) -> N H")
CONV1D_FROM_HEADS = Projection("(N H) D -> N H D", "D -> D")

# Several of ours in one of theirs.
QKV = ("attention/query", "attention/key", "attention/value")
# Each key head with its queries before it, and its value behind.
TO_GROUPS = Projection(
  "(K [G 1 1] H) D -> D (K G) H, D K H, D K H",
  "(K [G 1 1] H) -> (K G) H, K H, K H",
)


def dense(
  theirs: str, ours: str | tuple[str, ...], projection: Projection = LINEAR
) -> list[Entry]:
  """Returns the entries of a projection's kernel and bias."""
  names = (ours,) if isinstance(ours, str) else ours
  kernels, biases = (
    tuple(f"{name}/{leaf}" for name in names) for leaf in ("kernel", "bias")
  )
  return [
    Entry(f"{theirs}.weight", kernels, projection.kernel),
    Entry(f"{theirs}.bias", biases, projection.bias),
  ]


def norm(theirs: str, ours: str) -> list[Entry]:
  """Returns the entries of a norm's scale and bias."""
  return [
    Entry(f"{theirs}.weight", f"{ours}/scale"),
    Entry(f"{theirs}.bias", f"{ours}/bias"),
  ]


def under(theirs: str, ours: str, entries: Iterable[Entry]) -> list[Entry]:
  """Puts prefixes before all names of some entries."""
  return [entry.under(theirs, ours) for entry in entries]


class Slot(NamedTuple):
  """Where one of our tensors lies: a leaf, or a part of a stacked one.

  Attributes:
    path: of the leaf, "decoder/layers/layer_0/attention/out/kernel".
    index: into its first dims: the layer, the expert; or nothing.
    shape: of what lies there.
  """

  path: str
  index: tuple[int, ...]
  shape: tuple[int, ...]


class Link(NamedTuple):
  """One tensor of theirs, and where its parts lie in our parameters."""

  theirs: str
  slots: tuple[Slot, ...]
  pattern: patterns.Pattern | None

  @property
  def shape(self) -> tuple[int, ...]:
    """Returns the shape of theirs."""
    if self.pattern is None:
      return self.slots[0].shape
    return self.pattern.shape([slot.shape for slot in self.slots])

  def split(self, theirs) -> list:
    """Returns our tensors, one for each slot."""
    if self.pattern is None:
      return [theirs]
    return self.pattern.split(theirs, [slot.shape for slot in self.slots])

  def join(self, ours):
    """Returns theirs, made of what lies in the slots."""
    return ours[0] if self.pattern is None else self.pattern.join(ours)


def link(table: Table, params: Any) -> list[Link]:
  """Ties the parameters of a model to the names of a table.

  Args:
    table: of the family.
    params: tree of arrays or of their shapes; layers separate ("layer_0") or
      stacked ("layers").

  Raises:
    AssertionError: the table leaves a parameter out.
  """
  places = slots(params)
  numbers = [int(m[1]) for m in map(_LAYER.fullmatch, places) if m]
  num_layers = 1 + max(numbers, default=-1)
  links, reached = [], set()
  for entry in table.entries:
    paths = (entry.ours,) if isinstance(entry.ours, str) else entry.ours
    stacked = "{i}" in entry.theirs
    for i in range(num_layers) if stacked else (0,):
      found = [places.get(path.replace("{i}", str(i))) for path in paths]
      if None in found:
        assert not any(found), f"{entry} is half there"
        continue
      theirs = entry.theirs.replace("{i}", str(i))
      pattern = entry.pattern and patterns.parse(entry.pattern, len(paths))
      reached |= {path.replace("{i}", str(i)) for path in paths}
      if "{e}" not in theirs:
        links.append(Link(theirs, tuple(found), pattern or None))
        continue
      for e in range(found[0].shape[0]):
        experts = tuple(
          Slot(slot.path, (*slot.index, e), slot.shape[1:]) for slot in found
        )
        name = theirs.replace("{e}", str(e))
        links.append(Link(name, experts, pattern or None))
  forgotten = places.keys() - reached
  assert not forgotten, f"the table has no entry for {sorted(forgotten)}"
  return links


def slots(params: Any) -> dict[str, Slot]:
  """Returns where each tensor lies, under the name of separate layers.

  "decoder/layers/layer_0/mlp/wi/kernel" [2, D, F] of a period of one gives
  "decoder/layer_0/mlp/wi/kernel" and "decoder/layer_1/mlp/wi/kernel", [D, F]
  each; of a period of two, every second layer.
  """
  leaves = trees.named_leaves(params)
  periods: dict[str, int] = {}
  for path in leaves:
    if m := _STACKED.fullmatch(path):
      periods[m[1]] = max(periods.get(m[1], 1), 1 + int(m[2]))
  found = {}
  for path, leaf in leaves.items():
    shape = tuple(leaf.shape)
    m = _STACKED.fullmatch(path)
    if m is None:
      found[path] = Slot(path, (), shape)
      continue
    for i in range(shape[0]):
      layer = i * periods[m[1]] + int(m[2])
      found[f"{m[1]}layer_{layer}/{m[3]}"] = Slot(path, (i,), shape[1:])
  return found
