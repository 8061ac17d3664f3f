"""Reads and writes weights in safetensors files, without torch.

    DIR/model.safetensors                    all in one file, or
    DIR/model.safetensors.index.json         {"weight_map": {name: file}} over
    DIR/model-00001-of-00003.safetensors ... shards

Tensors are read one at a time, and written shard by shard: the host's memory
holds no more than one of those at once.
"""

import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from t5x_lite.files import disk, json_text, trees

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# The file's names of the dtypes that parameters have.
FLOATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


class Weights:
  """The tensors of a directory, read when asked for.

  Attributes:
    directory: where the files are.
    shapes: name -> shape.
    dtypes: name -> dtype as the files say it, "F32".
  """

  def __init__(self, directory: pathlib.Path):
    """Opens all files and reads their headers.

    Raises:
      ValueError: there are none; one is missing, cut short or damaged.
    """
    self.directory = directory
    self.shapes: dict[str, tuple[int, ...]] = {}
    self.dtypes: dict[str, str] = {}
    self._places: dict[str, tuple[pathlib.Path, str]] = {}
    self._open = {}
    for path, wanted in _contents(directory).items():
      self._open[path] = _open(path)
      names = set(self._open[path].keys())
      if wanted is not None and names != wanted:
        differences = trees.differences(
          dict.fromkeys(sorted(wanted), ()), dict.fromkeys(sorted(names), ())
        )
        raise ValueError(
          f"{path} does not hold what {INDEX} says (- missing in it, + only in"
          f" it): {trees.listed(differences)}"
        )
      for name in names:
        tensor = self._open[path].get_slice(name)
        self.shapes[name] = tuple(tensor.get_shape())
        self.dtypes[name] = tensor.get_dtype()
        self._places[name] = path, name

  @property
  def num_tensors(self) -> int:
    """How many tensors there are."""
    return len(self.shapes)

  @property
  def num_elements(self) -> int:
    """How many numbers all tensors hold."""
    return sum(math.prod(shape) for shape in self.shapes.values())

  def read(self, name: str) -> np.ndarray:
    """Reads one tensor.

    Raises:
      ValueError: the file cannot be read.
    """
    path, name = self._places[name]
    try:
      return self._open[path].get_tensor(name)
    except (OSError, safetensors.SafetensorError) as error:
      raise ValueError(f"{path}: cannot read {name}: {error}") from None

  def tied(self, name: str, to: str) -> bool:
    """Tells whether a tensor is not there, or has the same bits as another."""
    if name not in self.shapes:
      return True
    kinds = [(self.shapes.get(n), self.dtypes.get(n)) for n in (name, to)]
    if kinds[0] != kinds[1]:
      return False
    a, b = (self.read(n).reshape(-1).view(np.uint8) for n in (name, to))
    return np.array_equal(a, b)

  def rename(self, renames: Sequence[tuple[str, str]]):
    """Gives tensors other names, by (regular expression, replacement)."""
    for old in list(self.shapes):
      new = old
      for pattern, replacement in renames:
        new = re.sub(pattern, replacement, new)
      for part in (self.shapes, self.dtypes, self._places):
        part[new] = part.pop(old)


def _contents(directory: pathlib.Path) -> dict[pathlib.Path, set[str] | None]:
  """Returns file -> names that the index gives it; None where there is none."""
  if not directory.is_dir():
    raise ValueError(f"{directory} is no directory")
  if (directory / SINGLE).exists():
    return {directory / SINGLE: None}
  index = directory / INDEX
  if not index.exists():
    other = sorted(p.name for p in directory.glob("*.bin"))
    hint = f"; {other[0]} is not read: save it as safetensors" if other else ""
    raise ValueError(f"{directory} holds neither {SINGLE} nor {INDEX}{hint}")
  weight_map = json_text.read(index, "weight_map")["weight_map"]
  if not isinstance(weight_map, dict):
    raise ValueError(f"{index} is damaged: weight_map is not an object")
  files: dict[pathlib.Path, set[str]] = {}
  for name, file in weight_map.items():
    # A name with a folder could lead anywhere.
    is_name = isinstance(file, str) and file == os.path.basename(file)
    if not is_name or not file.endswith(".safetensors"):
      raise ValueError(
        f"{index}: weight_map has {name} in {file!r}, which is not the name of "
        f"a .safetensors file in {directory}"
      )
    files.setdefault(directory / file, set()).add(name)
  missing = [path.name for path in files if not path.exists()]
  if missing:
    raise ValueError(
      f"{directory} lacks {trees.listed(missing)} of the {len(files)} files"
      f" that {INDEX} names"
    )
  return files


def _open(path: pathlib.Path):
  try:
    return safetensors.safe_open(path, framework="np")
  except (OSError, safetensors.SafetensorError) as error:
    reason = str(error).splitlines()[0].removeprefix("Error while ")
    raise ValueError(
      f"{path} ({path.stat().st_size} bytes) is cut short or damaged:"
      f" {reason}; get this file again"
    ) from None


class Planned(NamedTuple):
  """A tensor that is to be written."""

  name: str
  shape: Sequence[int]
  dtype: str

  @property
  def nbytes(self) -> int:
    """Returns its size in the file."""
    return int(np.prod(self.shape)) * jnp.dtype(self.dtype).itemsize


def write(
  directory: pathlib.Path,
  tensors: Iterable[Planned],
  read: Callable[[str], np.ndarray],
  *,
  shard_bytes: int | None = None,
):
  """Writes tensors as one file, or as shards with an index.

  Args:
    directory: made if need be.
    tensors: what to write, in order.
    read: returns one of them by name; called shard by shard.
    shard_bytes: no file gets larger, unless a single tensor is; None means one
      file.

  Raises:
    ValueError: the directory holds weights already, or cannot be written to.
  """
  shards: list[list[Planned]] = [[]]
  for tensor in tensors:
    size = sum(t.nbytes for t in shards[-1]) + tensor.nbytes
    if shards[-1] and shard_bytes is not None and size > shard_bytes:
      shards.append([])
    shards[-1].append(tensor)
  count = len(shards)
  try:
    directory.mkdir(parents=True, exist_ok=True)
    present = sorted(path.name for path in directory.glob("*.safetensors"))
    if present:
      raise ValueError(
        f"{directory} holds {present[0]} already: give another directory"
      )
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
      file = SINGLE
      if count > 1:
        file = f"model-{number:05d}-of-{count:05d}.safetensors"
      # safetensors takes the buffer as it lies, strides or not.
      arrays = {t.name: np.asarray(read(t.name), order="C") for t in shard}
      with disk.partial(directory / file) as temporary:
        safetensors_numpy.save_file(
          arrays, temporary, metadata={"format": "pt"}
        )
      weight_map |= {t.name: file for t in shard}
    if count > 1:
      total = sum(t.nbytes for shard in shards for t in shard)
      index = {"metadata": {"total_size": total}, "weight_map": weight_map}
      text = json.dumps(index, indent=2, sort_keys=True)
      disk.write_text(directory / INDEX, text + "\n")
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(f"cannot write weights to {directory}: {error}") from None
