"""Patterns: how the dims of a tensor of theirs become those of ours.

    "(N H) D -> D N H"             a linear layer's [out, in], into heads
    "D (N H) -> N H D"             and back out of them
    "(N [1 1 1] H) D -> D N H"     queries, keys and values of each head
                                   together: one tensor, three of ours
    "(K [G 1 1] H) D -> D (K G) H, D K H, D K H"
                                   the same with grouped queries

Left stands their tensor, right ours. Parentheses hold axes merged to one dim,
the slowest first; brackets hold the axis along which several of ours lie one
after another, with each one's size. Only dims move: bits stay what they are.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

Shape = tuple[int, ...]
Dims = tuple[tuple, ...]  # Of axes; an axis is a letter, "1" or a bracket.


@dataclasses.dataclass(frozen=True)
class Pattern:
  """Splits one tensor of theirs into ours, and joins ours to it again.

  Attributes:
    left: dims of theirs, each a tuple of axes.
    right: for each tensor of ours, its dims.
  """

  left: Dims
  right: tuple[Dims, ...]

  def shape(self, shapes: Sequence[Shape]) -> Shape:
    """Returns the shape of theirs, given those of ours."""
    sizes = self._sizes(shapes)
    axes = (math.prod(self._size(a, sizes) for a in dim) for dim in self.left)
    return tuple(axes)

  def split(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list:
    """Returns ours, with these shapes; views where that can be."""
    sizes = self._sizes(shapes)
    axes = _flat(self.left)
    x = theirs.reshape([self._size(axis, sizes) for axis in axes])
    pieces = [x]
    for i, axis in enumerate(axes):
      if isinstance(axis, tuple):
        ends = np.cumsum([sizes[a] for a in axis])[:-1]
        pieces = np.split(x, ends, axis=i)
    ours = []
    for j, (piece, dims, shape) in enumerate(
      zip(pieces, self.right, shapes, strict=True)
    ):
      letters, order = self._letters(j), _letters(_flat(dims))
      piece = piece.reshape([sizes[a] for a in letters])
      moved = piece.transpose([letters.index(a) for a in order])
      ours.append(moved.reshape(shape))
    return ours

  def join(self, ours: Sequence[np.ndarray]) -> np.ndarray:
    """Returns theirs."""
    shapes = [x.shape for x in ours]
    sizes = self._sizes(shapes)
    axes = _flat(self.left)
    pieces = []
    for j, (x, dims) in enumerate(zip(ours, self.right, strict=True)):
      letters, order = self._letters(j), _letters(_flat(dims))
      x = x.reshape([sizes[a] for a in order])
      x = x.transpose([order.index(a) for a in letters])
      pieces.append(x.reshape([sizes[a] for a in self._axes(j)]))
    x = pieces[0]
    for i, axis in enumerate(axes):
      if isinstance(axis, tuple):
        x = np.concatenate(pieces, axis=i)
    return x.reshape(self.shape(shapes))

  def _axes(self, j: int) -> list[str]:
    """Returns the axes of the j-th of ours as they stand in theirs."""
    axes = _flat(self.left)
    return [axis[j] if isinstance(axis, tuple) else axis for axis in axes]

  def _letters(self, j: int) -> list[str]:
    return _letters(self._axes(j))

  def _size(self, axis, sizes: Mapping[str, int]) -> int:
    if isinstance(axis, tuple):
      return sum(sizes[a] for a in axis)
    return sizes[axis]

  def _sizes(self, shapes: Sequence[Shape]) -> dict[str, int]:
    """Finds each axis's size from the shapes of ours."""
    sizes = {"1": 1}
    merged = []
    for dims, shape in zip(self.right, shapes, strict=True):
      for dim, size in zip(dims, shape, strict=True):
        if len(dim) > 1:
          merged.append((dim, size))
        else:
          known = sizes.setdefault(dim[0], size)
          assert known == size, f"{dim[0]} is {known} and {size} in {self}"
    for dim, size in merged:
      known = math.prod(sizes[a] for a in dim if a in sizes)
      unknown = [a for a in dim if a not in sizes]
      assert len(unknown) <= 1, f"the size of {unknown} is not known in {self}"
      for axis in unknown:
        sizes[axis] = size // known
    return sizes


def _flat(dims: Dims) -> list:
  return [axis for dim in dims for axis in dim]


def _letters(axes: Sequence[str]) -> list[str]:
  return [axis for axis in axes if axis != "1"]


@functools.cache
def parse(text: str, parts: int = 1) -> Pattern:
  """Reads a pattern.

  Args:
    text: as in this module's docstring.
    parts: how many tensors of ours there are; a single right side stands for
      all of them.
  """
  left, right = text.split(" -> ")
  sides = [_dims(side) for side in right.split(",")]
  if len(sides) == 1:
    sides *= parts
  pattern = Pattern(_dims(left), tuple(sides))
  assert len(sides) == parts, (
    f"{text!r} makes {len(sides)} tensors, not {parts}"
  )
  for j in range(parts):
    ours = sorted(_letters(_flat(sides[j])))
    assert sorted(pattern._letters(j)) == ours, f"axes get lost in {text!r}"
  return pattern


def _dims(text: str) -> Dims:
  """Reads one side: "(N [1 1] H) D" -> (("N", ("1", "1"), "H"), ("D",))."""
  dims, inside = [], None
  for dim, bracket, mark, axis in re.findall(
    r"(\()|\[([\w ]+)\]|(\))|(\w)", text
  ):
    if dim:
      inside = []
    elif mark:
      dims.append(tuple(inside))
      inside = None
    else:
      found = tuple(bracket.split()) if bracket else axis
      if inside is None:
        dims.append((found,))
      else:
        inside.append(found)
  return tuple(dims)
