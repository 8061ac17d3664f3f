"""Layout: which devices hold which part of which array.

The only file that names mesh axes. There are two: rows of a batch are spread
over "data", and the large dims of parameters over "tensor". All other code
names logical axes, which rules map to mesh axes:

    data=2, tensor=4        ("embed", "mlp")     -> P(None, "tensor")
    d0 d1 d2 d3             ("batch", "length")  -> P("data", None)
    d4 d5 d6 d7             ("embed",)           -> P(None)
"""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from absl import logging
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from t5x_lite.devices.distributed import (
  initialize_distributed as initialize_distributed,
)

MESH_AXES = ("data", "tensor")

# Logical axis -> mesh axis. Megatron's split (arXiv:1909.08053): heads and
# hidden units of one layer lie on different devices of "tensor".
DEFAULT_RULES = (
  ("batch", "data"),
  ("vocab", "tensor"),
  ("heads", "tensor"),
  ("kv_heads", "tensor"),
  ("mlp", "tensor"),
  ("embed", None),
  ("length", None),
  ("head_dim", None),
  ("buckets", None),
  ("layers", None),
  ("experts", None),
  ("router", None),
  ("types", None),
  ("classes", None),
)

Axes = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """Spreads arrays over a mesh of devices.

  Attributes:
    data: devices along the mesh axis "data"; -1 takes the rest.
    tensor: devices along the mesh axis "tensor"; -1 takes the rest.
    num_slices: groups of devices joined by a slower network (TPU slices); the
      data axis alone crosses between them. None: as many as the devices say.
    rules: pairs (logical axis, mesh axis or None), which go before
      `DEFAULT_RULES`. The first rule of an axis counts; one whose mesh axis is
      taken by another dim of the array, or does not divide the dim, is passed
      over. `(("embed", "data"),)` also spreads parameters over "data", as FSDP
      (ZeRO-3, arXiv:1910.02054) does.
  """

  data: int = -1
  tensor: int = 1
  num_slices: int | None = None
  rules: Sequence[tuple[str, str | None]] = ()

  def __post_init__(self):
    for name in MESH_AXES:
      size = getattr(self, name)
      if not isinstance(size, int) or (size < 1 and size != -1):
        raise ValueError(
          f"Layout.{name} ({size!r}) must be 1 or more, or -1 for the rest of"
          " the devices"
        )
    if self.data == self.tensor == -1:
      raise ValueError(
        "Layout: only one of data (-1) and tensor (-1) can be the rest of the"
        " devices"
      )
    if self.num_slices is not None and self.num_slices < 1:
      raise ValueError(
        f"Layout.num_slices ({self.num_slices}) must be 1 or more, or None"
      )
    rules = tuple(tuple(rule) for rule in self.rules)  # Gin gives lists too.
    for rule in rules:
      if len(rule) != 2 or rule[1] not in (*MESH_AXES, None):
        raise ValueError(
          f"Layout.rules: {rule} must be a pair of a logical axis and one of"
          f" {', '.join(MESH_AXES)}, None"
        )
    object.__setattr__(self, "rules", rules)

  @property
  def all_rules(self) -> tuple[tuple[str, str | None], ...]:
    """All rules in their order; those of "batch" come first.

    Activations thus keep "data" for their rows even where the parameters' width
    is spread over it.
    """
    rules = (*self.rules, *DEFAULT_RULES)
    return tuple(sorted(rules, key=lambda rule: rule[0] != "batch"))

  def mesh_shape(self, num_devices: int) -> tuple[int, int]:
    """Returns the sizes of "data" and "tensor" for so many devices."""
    data, tensor = self.data, self.tensor
    if data == -1:
      data = num_devices // tensor
    elif tensor == -1:
      tensor = num_devices // data
    if data * tensor != num_devices:
      # -1 that does not come out even: show what was asked for.
      if -1 in (self.data, self.tensor):
        known = "tensor" if self.data == -1 else "data"
        raise ValueError(
          f"{known} ({getattr(self, known)}) does not divide {num_devices}"
          " devices"
        )
      raise ValueError(
        f"data ({data}) x tensor ({tensor}) = {data * tensor} does not match"
        f" {num_devices} devices; -1 takes the rest"
      )
    return data, tensor

  def mesh(self) -> Mesh:
    """Returns the mesh over all devices of all processes."""
    shape = self.mesh_shape(jax.device_count())
    return _mesh(shape, self.num_slices)

  @contextlib.contextmanager
  def activate(self):
    """Makes the mesh and the rules those of the code inside.

    `flax.linen.with_logical_constraint` looks at both. It cannot know sizes:
    `fit` first, where a model has axes that the mesh does not divide.
    """
    from flax import linen

    mesh = self.mesh()
    with jax.set_mesh(mesh), linen.logical_axis_rules(self.all_rules):
      yield mesh

  def fit(self, logical_axes, abstract_tree) -> "Layout":
    """Replicates the logical axes that the mesh does not divide somewhere.

    For instance "kv_heads" where there is but one. Activations have the sizes
    of the parameters, so that their constraints then hold too.
    """
    mesh = self.mesh()
    odd = set()

    def look(leaf, axes):
      for size, axis in zip(leaf.shape, axes, strict=True):
        for name, mesh_axis in self.all_rules:
          if name == axis and mesh_axis and size % mesh.shape[mesh_axis]:
            odd.add(name)

    jax.tree.map(look, abstract_tree, logical_axes)
    replicated = tuple((name, None) for name in sorted(odd))
    return dataclasses.replace(self, rules=(*replicated, *self.rules))

  def sharding(
    self, logical_axes: Axes, shape: Sequence[int] | None = None
  ) -> NamedSharding:
    """Returns how an array with these axes is spread.

    Args:
      logical_axes: a name, or None, for each dim.
      shape: where given, a dim that its mesh axis does not divide is replicated
        (and this is said once).
    """
    mesh = self.mesh()
    return NamedSharding(mesh, self._spec(logical_axes, shape, mesh))

  def _spec(self, logical_axes, shape, mesh) -> PartitionSpec:
    self._check_known(logical_axes)
    spec: list[str | None] = [None] * len(logical_axes)
    undecided = set(range(len(logical_axes)))
    for name, mesh_axis in self.all_rules:
      for i in sorted(undecided):
        taken = mesh_axis is not None and mesh_axis in spec
        if logical_axes[i] != name or taken:
          continue
        if mesh_axis and shape and shape[i] % mesh.shape[mesh_axis]:
          _say_once(
            f"{name} ({shape[i]}) is not divisible by {mesh_axis}"
            f" ({mesh.shape[mesh_axis]}): each device holds all of it"
          )
          continue
        spec[i] = mesh_axis
        undecided.remove(i)
    return PartitionSpec(*spec)

  def _check_known(self, logical_axes):
    known = {name for name, _ in self.all_rules}
    for axis in logical_axes:
      if axis is not None and axis not in known:
        raise ValueError(
          f"no rule for the logical axis {axis!r} of {tuple(logical_axes)};"
          f" known are {', '.join(sorted(known))}; add one to Layout.rules"
        )

  def tree_shardings(self, logical_axes, abstract_tree):
    """Returns the sharding of each leaf of a tree.

    Args:
      logical_axes: tree like `abstract_tree`, with tuples of axis names.
      abstract_tree: arrays or ShapeDtypeStructs.
    """
    return jax.tree.map(
      lambda leaf, axes: self.sharding(axes, leaf.shape),
      abstract_tree,
      logical_axes,
    )

  def batch_sharding(self) -> NamedSharding:
    """Returns how the rows of a batch are spread; other dims are not."""
    return self.sharding(("batch",))

  def replicated(self) -> NamedSharding:
    """Returns the sharding of what every device holds: keys, counters."""
    return NamedSharding(self.mesh(), PartitionSpec())

  def data_shard(self) -> tuple[int, int]:
    """Returns which share of a batch this process reads: (index, count).

    Processes whose devices share rows (a "tensor" axis across processes) read
    the same share.
    """
    rows = [
      row
      for row, devices in enumerate(self.mesh().devices)
      if any(d.process_index == jax.process_index() for d in devices)
    ]
    count = self.mesh().shape["data"] // len(rows)
    assert rows == list(range(rows[0], rows[0] + len(rows))), rows
    return rows[0] // len(rows), count

  def check_batch(self, batch_size: int, microbatches: int = 1):
    """Refuses a global batch whose rows cannot be shared out evenly.

    Raises:
      ValueError: naming the numbers.
    """
    data = self.mesh().shape["data"]
    if batch_size % (microbatches * data):
      raise ValueError(
        f"batch_size ({batch_size}) must be divisible by microbatches"
        f" ({microbatches}) x data ({data}) = {microbatches * data}"
      )

  def shard_batch(
    self, host_batch: Mapping[str, np.ndarray]
  ) -> dict[str, jax.Array]:
    """Makes global arrays of the rows that each process has read."""
    sharding = self.batch_sharding()
    _, count = self.data_shard()

    def to_global(rows):
      shape = (len(rows) * count, *rows.shape[1:])
      self.check_batch(shape[0])
      return jax.make_array_from_process_local_data(sharding, rows, shape)

    return {name: to_global(rows) for name, rows in host_batch.items()}


@functools.cache
def _mesh(shape: tuple[int, int], num_slices: int | None) -> Mesh:
  auto = (AxisType.Auto,) * len(MESH_AXES)
  slices = arrange_slices(jax.devices(), shape, num_slices)
  if slices is None:
    return jax.make_mesh(shape, MESH_AXES, axis_types=auto)
  return Mesh(slices, MESH_AXES, axis_types=auto)


def arrange_slices(
  devices: Sequence, shape: tuple[int, int], num_slices: int | None
) -> np.ndarray | None:
  """Arranges devices so that "tensor" stays within a slice.

  Args:
    devices: all devices.
    shape: sizes of "data" and "tensor".
    num_slices: as `Layout.num_slices`.

  Returns:
    The devices in that shape; None where they form a single slice.
  """
  by_slice = len({getattr(d, "slice_index", 0) for d in devices})
  by_process = len({d.process_index for d in devices})
  data, tensor = shape
  if num_slices is None:
    num_slices = by_slice
    if data % num_slices:  # Not asked for, so no reason to refuse.
      _say_once(f"data ({data}) crosses {num_slices} slices unevenly")
      num_slices = 1
  if num_slices == 1:
    return None
  if num_slices not in (by_slice, by_process):
    raise ValueError(
      f"num_slices ({num_slices}) is neither the number of slices ({by_slice})"
      f" nor that of processes ({by_process})"
    )
  if data % num_slices:
    raise ValueError(
      f"data ({data}) must be divisible by num_slices ({num_slices})"
    )
  return mesh_utils.create_hybrid_device_mesh(
    (data // num_slices, tensor),
    (num_slices, 1),
    devices,
    process_is_granule=num_slices != by_slice,
  )


@functools.cache
def _say_once(message: str):
  logging.info("%s", message)
