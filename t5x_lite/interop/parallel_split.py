"""Splits parameters over tensor- and pipeline-parallel ranks, in our format.

    DIR/split.json                             tp, pp, the layers of each stage
    DIR/tensor_00_stage_000/model.safetensors  tensor rank 0, stage 0
    DIR/tensor_01_stage_000/model.safetensors  tensor rank 1, stage 0
    DIR/tensor_00_stage_001/model.safetensors ...

The ranks get what Megatron's ranks hold, but names, dims and files are ours:
Megatron-LM does not load them. Layers stand apart, numbered over all stages
("decoder/layer_3/mlp/wi/kernel").

Tensor-parallel (Shoeybi et al. 2019, arXiv:1909.08053): a rank has its share of
each dim that the rules of devices/layout.py spread over "tensor" - heads,
hidden units, the vocabulary, which is filled up with zeros to a multiple of
tp - and all of the others. Queries, keys and values are column-parallel, what
follows them row-parallel. Of key heads fewer than tp, each lies on tp / K
neighbouring ranks, beside the queries that read it.

Pipeline-parallel (Narayanan et al. 2021, arXiv:2104.04473): a stage has its
share of the layers, the encoder's before the decoder's. What stands before a
stack's layers lies with the first of them, what follows with the last; what all
layers read, such as relative biases, with each stage that has some; the
embedding with the first of both stacks and, where it is the head too, with the
last.
"""

import dataclasses
import json
import os
import pathlib
import re

import jax
import numpy as np

from t5x_lite.devices.layout import DEFAULT_RULES
from t5x_lite.files import disk, json_text, trees
from t5x_lite.interop import placing, tables
from t5x_lite.interop.safetensors_files import (
  FLOATS,
  Planned,
  Weights,
  write,
)
from t5x_lite.model import Model, Params

SPLIT = "split.json"

_LAYER = re.compile(r"(.*/)layer_(\d+)/")
# Outside the layers: what follows a model's last, and precedes a stack's first.
_TOP = re.compile(r"head|classifier")
_BEFORE = re.compile(r"input_norm|position")
_SPREAD = {axis for axis, mesh_axis in DEFAULT_RULES if mesh_axis == "tensor"}


@dataclasses.dataclass(frozen=True)
class _Tensor:
  """One tensor of ours, and how it is split.

  Attributes:
    slot: where it lies in our parameters.
    stages: which have it.
    dim: the one that is split, or None.
    parts: into how many different pieces; tp ranks share them.
  """

  slot: tables.Slot
  stages: tuple[int, ...]
  dim: int | None
  parts: int

  @property
  def size(self) -> int:
    """Returns the size of the dim in one piece."""
    return -(-self.slot.shape[self.dim] // self.parts)

  @property
  def shape(self) -> tuple[int, ...]:
    """Returns the shape of one piece."""
    shape = list(self.slot.shape)
    if self.dim is not None:
      shape[self.dim] = self.size
    return tuple(shape)

  def piece(self, whole: np.ndarray, rank: int, tp: int) -> np.ndarray:
    """Returns what a tensor rank has of it."""
    if self.dim is None:
      return whole
    start = rank * self.parts // tp * self.size
    within = [slice(None)] * whole.ndim
    within[self.dim] = slice(start, start + self.size)
    piece = whole[tuple(within)]
    missing = self.size - piece.shape[self.dim]
    width = [(0, missing if i == self.dim else 0) for i in range(whole.ndim)]
    return np.pad(piece, width) if missing else piece

  def ranks(self, tp: int) -> list[int]:
    """Returns tensor ranks whose pieces make the whole, in order."""
    return [0] if self.dim is None else list(range(0, tp, tp // self.parts))

  def whole(self, pieces: list[np.ndarray]) -> np.ndarray:
    """Returns the tensor, without what was filled up."""
    if self.dim is None:
      return pieces[0]
    joined = np.concatenate(pieces, axis=self.dim)
    within = [slice(size) for size in self.slot.shape]
    return joined[tuple(within)]


def save_split(
  model: Model,
  params: Params,
  directory: str | os.PathLike,
  *,
  tp: int,
  pp: int,
):
  """Writes one safetensors file for each of tp x pp ranks.

  Args:
    model: layers scanned or not.
    params: of the model; tensors keep their dtypes.
    directory: made if need be.
    tp: tensor-parallel ranks.
    pp: pipeline stages.

  Raises:
    ValueError: heads, hidden units or layers cannot be shared out evenly; the
      directory is in use.
  """
  directory = pathlib.Path(directory).expanduser()
  leaves = trees.named_leaves(params)
  plan = _plan(model, tp, pp)
  for stage in range(pp):
    here = {n: tensor for n, tensor in plan.items() if stage in tensor.stages}
    for rank in range(tp):

      def read(name, here=here, rank=rank):
        slot = here[name].slot
        whole = placing.take(slot, leaves[slot.path])
        return here[name].piece(whole, rank, tp)

      tensors = [
        Planned(name, tensor.shape, str(leaves[tensor.slot.path].dtype))
        for name, tensor in here.items()
      ]
      write(_folder(directory, rank, stage), tensors, read)
  layers = [
    {
      m[0]: None
      for n in plan
      if (m := _LAYER.match(n)) and here in plan[n].stages
    }
    for here in range(pp)
  ]
  split = {"tp": tp, "pp": pp, "layers": [list(names) for names in layers]}
  disk.write_text(directory / SPLIT, json.dumps(split, indent=2) + "\n")


def load_split(model: Model, directory: str | os.PathLike) -> Params:
  """Reads what `save_split` wrote, tensor by tensor.

  Raises:
    ValueError: a rank's file is missing or damaged; the split is not that of
      this model.
  """
  directory = pathlib.Path(directory).expanduser()
  tp, pp = _read_split(directory)
  plan = _plan(model, tp, pp)
  files = {
    (rank, stage): Weights(_folder(directory, rank, stage))
    for stage in range(pp)
    for rank in range(tp)
  }
  dtypes = {}
  for (_, stage), weights in files.items():
    wanted = {n: t.shape for n, t in plan.items() if stage in t.stages}
    found = trees.differences(wanted, weights.shapes)
    if found:
      raise ValueError(
        f"{weights.directory} does not fit the model (- missing in it, + only"
        f" in it): {trees.listed(found)}"
      )
    dtypes |= {plan[n].slot.path: FLOATS[weights.dtypes[n]] for n in wanted}

  def parts():
    for name, tensor in plan.items():
      stage = tensor.stages[0]
      pieces = [files[r, stage].read(name) for r in tensor.ranks(tp)]
      yield tensor.slot, tensor.whole(pieces)

  return placing.place(parts(), placing.on(model, dtypes, None))


def _plan(model: Model, tp: int, pp: int) -> dict[str, _Tensor]:
  """Returns how each tensor is split, by its name."""
  abstract = model.abstract()
  axes = {}
  jax.tree.map(
    axes.__setitem__, trees.tree_of_names(abstract), model.logical_axes()
  )
  slots = tables.slots(abstract)
  stages = _stages(slots, model.transformer.lm_head.tied, pp)
  plan = {}
  for name, slot in slots.items():
    dim, parts = _cut(name, slot.shape, axes[slot.path][len(slot.index) :], tp)
    plan[name] = _Tensor(slot, stages[name], dim, parts)
  return plan


def _cut(name, shape, axes, tp) -> tuple[int | None, int]:
  """Returns the dim of a tensor that is split, and into how many pieces."""
  for dim, (axis, size) in enumerate(zip(axes, shape, strict=True)):
    if axis not in _SPREAD:
      continue
    if axis == "kv_heads" and size < tp and tp % size == 0:
      return dim, size
    if axis != "vocab" and size % tp:
      raise ValueError(f"{axis} ({size}) of {name} cannot be shared by tp={tp}")
    return dim, tp
  return None, 1


def _stages(slots, tied: bool, pp: int) -> dict[str, tuple[int, ...]]:
  """Returns which stages have each tensor."""
  found = {m.groups() for m in map(_LAYER.match, slots) if m}
  layers = sorted(found, key=lambda layer: (_rank(layer[0]), int(layer[1])))
  if len(layers) % pp:
    raise ValueError(
      f"the model's layers ({len(layers)}) cannot be shared by pp={pp}"
    )
  at = {layer: k * pp // len(layers) for k, layer in enumerate(layers)}
  spans = {}
  for (stack, _), stage in at.items():
    spans.setdefault(stack, []).append(stage)
  firsts = tuple(sorted({stages[0] for stages in spans.values()}))

  def stages(name):
    if m := _LAYER.match(name):
      return (at[m.groups()],)
    stack = next((s for s in spans if name.startswith(s)), None)
    if name == "token_embedding" and tied:
      return tuple(sorted({*firsts, pp - 1}))
    if stack is None:
      return (pp - 1,) if _TOP.match(name) else firsts
    if name.endswith("relative_bias"):
      return tuple(sorted(set(spans[stack])))
    before = _BEFORE.match(name.removeprefix(stack))
    return (spans[stack][0 if before else -1],)

  return {name: stages(name) for name in slots}


def _rank(stack: str) -> int:
  """Orders stacks as data runs through them."""
  order = ("encoder/", "decoder/self_decoder/", "decoder/")
  return next(i for i, start in enumerate(order) if stack.startswith(start))


def _read_split(directory: pathlib.Path) -> tuple[int, int]:
  path = directory / SPLIT
  if not path.exists():
    raise ValueError(f"{directory} holds no {SPLIT}")
  split = json_text.read(path, "tp", "pp")
  sizes = split["tp"], split["pp"]
  if not all(isinstance(size, int) and size > 0 for size in sizes):
    raise ValueError(f"{path} is damaged: tp and pp are {sizes}")
  return sizes


def _folder(directory: pathlib.Path, rank: int, stage: int) -> pathlib.Path:
  return directory / f"tensor_{rank:02d}_stage_{stage:03d}"
