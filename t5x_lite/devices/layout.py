"""Layout: how arrays are sharded over a mesh of devices.

Code gives each dim of an array a logical axis, and rules, here and in gin
files, map logical axes to mesh axes:

    mesh {"data": 2, "tensor": 4} of devices    d0 d1 d2 d3
                                                d4 d5 d6 d7

    logical axes           sharding on it
    ("embed", "mlp")       P(None, "tensor")
    ("batch", "length")    P("data", None)
    ("embed",)             P(None)

By default "data" and "fsdp" shard the rows of a batch, "fsdp" also the width of
parameters, and "tensor" heads, hidden units and the vocabulary. A mesh axis of
another name needs a rule in Layout.rules.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_lite import checks
from t5x_lite.devices import meshes
from t5x_lite.devices.distributed import (
  initialize_distributed as initialize_distributed,
)

# The mesh axes that shard one dim: none, one, or several, outermost first.
MeshAxes = str | tuple[str, ...] | None
Rule = tuple[str, MeshAxes]
Axes = tuple[str | None, ...]

# Logical axis -> mesh axes; mesh axes that a mesh does not have are left out.
DEFAULT_RULES: tuple[Rule, ...] = (
  ("batch", ("data", "fsdp")),
  # Parameters are gathered when they are used: ZeRO-3 (arXiv:1910.02054).
  ("embed", "fsdp"),
  # Vocabulary, heads and hidden units: Megatron (arXiv:1909.08053).
  ("vocab", "tensor"),
  ("heads", "tensor"),
  ("kv_heads", "tensor"),
  ("mlp", "tensor"),
  # Never sharded by default. Tokens of activations, tokens of keys and values,
  # rows of a position table, and small dims.
  ("length", None),
  ("kv_length", None),
  ("positions", None),
  ("head_dim", None),
  ("buckets", None),
  ("layers", None),
  ("experts", None),
  ("router", None),
  ("types", None),
  ("classes", None),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """Shards arrays over a mesh of devices.

  Attributes:
    mesh: mesh axis -> number of devices along it, the outermost axis first; -1,
      once, takes the devices that are left.
    num_slices: groups of devices joined by a slower network (TPU slices); only
      the first mesh axis crosses from one to another. None: as many as the
      devices report.
    rules: pairs of a logical axis and a mesh axis, several or None, which go
      before `DEFAULT_RULES`. A dim takes the first rule of its logical axis
      whose mesh axes divide it and shard no other dim of the array.
  """

  mesh: Mapping[str, int] = dataclasses.field(
    default_factory=lambda: {"data": -1}
  )
  num_slices: checks.Count | None = None
  rules: Sequence[Rule] = ()

  def __post_init__(self):
    checks.fields(self)
    if not self.mesh:
      raise ValueError(
        f"Layout.mesh ({self.mesh!r}) must map mesh axes to numbers of devices,"
        ' such as {"data": -1, "tensor": 2}'
      )
    for axis, size in self.mesh.items():
      if size < 1 and size != -1:
        raise ValueError(
          f"Layout.mesh: {axis} ({size!r}) must be 1 or more, or -1 for the"
          " devices that are left"
        )
    if list(self.mesh.values()).count(-1) > 1:
      raise ValueError(
        f"Layout.mesh: only one axis of {_sizes(self.mesh)} can be -1, the"
        " devices that are left"
      )
    object.__setattr__(self, "mesh", dict(self.mesh))
    rules = tuple(_rule(rule, self.mesh) for rule in self.rules)
    object.__setattr__(self, "rules", rules)
    used = {
      axis for _, axes in (*rules, *DEFAULT_RULES) for axis in as_axes(axes)
    }
    for axis, size in self.mesh.items():
      if size != 1 and axis not in used:
        raise ValueError(
          f"Layout.mesh: no rule uses {axis} ({size}), so its devices would"
          " repeat each other's work: add one to Layout.rules"
        )

  def _key(self):  # The order of the axes matters.
    return tuple(self.mesh.items()), self.num_slices, self.rules

  def __eq__(self, other):
    return isinstance(other, Layout) and self._key() == other._key()

  def __hash__(self):
    return hash(self._key())

  @property
  def all_rules(self) -> tuple[Rule, ...]:
    """All rules in their order, but those of "batch" first.

    So where "batch" and "embed" both name a mesh axis, an activation is sharded
    over it by its rows.
    """
    defaults = (
      (name, _one_or_all(axis for axis in as_axes(axes) if axis in self.mesh))
      for name, axes in DEFAULT_RULES
    )
    rules = (*self.rules, *defaults)
    return tuple(sorted(rules, key=lambda rule: rule[0] != "batch"))

  @property
  def batch_axes(self) -> tuple[str, ...]:
    """The mesh axes that rows of a batch are sharded over."""
    # dict keeps the last of several rules of "batch": the first is wanted.
    return as_axes(dict(reversed(self.all_rules))["batch"])

  def mesh_sizes(self, num_devices: int) -> dict[str, int]:
    """Returns the size of each mesh axis on `num_devices`, -1 filled in.

    Raises:
      ValueError: the sizes do not multiply to `num_devices`.
    """
    sizes = dict(self.mesh)
    known = math.prod(size for size in sizes.values() if size != -1)
    rest = [axis for axis, size in sizes.items() if size == -1]
    if rest and num_devices % known:
      del sizes[rest[0]]
      raise ValueError(f"{_sizes(sizes)} does not divide {num_devices} devices")
    if not rest and known != num_devices:
      raise ValueError(
        f"{_sizes(sizes)} = {known} does not match {num_devices} devices; -1"
        " takes those that are left"
      )
    return sizes | {axis: num_devices // known for axis in rest}

  def for_any_devices(self) -> "Layout":
    """Returns a layout with the same axes that fits any number of devices.

    The last mesh axis of the batch takes all of them: "fsdp" where there is
    one, so that parameters are sharded too.
    """
    last = (self.batch_axes or ("data",))[-1]
    mesh = {axis: 1 for axis in self.mesh} | {last: -1}
    return dataclasses.replace(self, mesh=mesh, num_slices=None)

  def parts(self, axis: str) -> int:
    """Returns how many parts a dim of a logical axis is cut into."""
    # dict keeps the last of several rules: the first is wanted.
    rules = dict(reversed(self.all_rules))
    return _ways(rules[axis], self.device_mesh())

  def device_mesh(self) -> Mesh:
    """Returns the mesh over all devices of all processes.

    Within `meshes.absent`, over the devices that it plans for.
    """
    sizes = self.mesh_sizes(meshes.device_count())
    return meshes.build(tuple(sizes.items()), self.num_slices)

  @contextlib.contextmanager
  def activate(self):
    """Sets the mesh and the rules of `flax.linen.with_logical_constraint`.

    Constraints ignore sizes: call `fit` first if an axis may not divide.
    """
    from flax import linen

    mesh = self.device_mesh()
    with jax.set_mesh(mesh), linen.logical_axis_rules(self.all_rules):
      yield mesh

  def fit(self, logical_axes, abstract_tree) -> "Layout":
    """Returns a layout that replicates axes that the mesh does not divide.

    A logical axis, such as "kv_heads" of multi-query attention, is replicated
    everywhere if any of its rules fails to divide any of its dims. Activations
    have the same sizes as parameters, so that constraints on them then hold.
    """
    mesh = self.device_mesh()
    uneven = set()

    def collect(leaf, axes):
      for size, axis in zip(leaf.shape, axes, strict=True):
        for name, mesh_axes in self.all_rules:
          if name == axis and size % _ways(mesh_axes, mesh):
            uneven.add(name)

    jax.tree.map(collect, abstract_tree, logical_axes)
    replicated = tuple((name, None) for name in sorted(uneven))
    return dataclasses.replace(self, rules=(*replicated, *self.rules))

  def sharding(
    self, logical_axes: Axes, shape: Sequence[int] | None = None
  ) -> NamedSharding:
    """Returns the sharding of an array with these axes.

    Args:
      logical_axes: a name, or None, for each dim.
      shape: where given, a dim that a rule's mesh axes do not divide goes to
        the axis's next rule, or is replicated (and this is logged once).
    """
    mesh = self.device_mesh()
    return NamedSharding(mesh, self._spec(logical_axes, shape, mesh))

  def _spec(self, logical_axes, shape, mesh) -> PartitionSpec:
    self._check_known(logical_axes)
    spec: list[MeshAxes] = [None] * len(logical_axes)
    undecided = set(range(len(logical_axes)))
    for name, mesh_axes in self.all_rules:
      for i in sorted(undecided):
        taken = {axis for axes in spec for axis in as_axes(axes)}
        if logical_axes[i] != name or taken.intersection(as_axes(mesh_axes)):
          continue
        if shape and shape[i] % _ways(mesh_axes, mesh):
          sizes = _sizes(
            {axis: mesh.shape[axis] for axis in as_axes(mesh_axes)}
          )
          _log_once(
            f"{name} ({shape[i]}) is not divisible by {sizes}: it is not"
            " sharded over them"
          )
          continue
        spec[i] = mesh_axes
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
    """Returns the sharding of a batch's rows; other dims are not sharded."""
    return self.sharding(("batch",))

  def replicated(self) -> NamedSharding:
    """Returns the sharding of an array that every device holds: a counter."""
    return NamedSharding(self.device_mesh(), PartitionSpec())

  def data_shard(self) -> tuple[int, int]:
    """Returns which share of a batch this process reads: (index, count).

    Processes whose devices hold the same rows (a "tensor" axis across
    processes) read the same share.

    Raises:
      ValueError: this process's share is not an equal, contiguous part.
    """
    mesh = self.device_mesh()
    sizes = [mesh.shape[axis] for axis in self.batch_axes]
    dims = [mesh.axis_names.index(axis) for axis in self.batch_axes]
    steps = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    # Which of the batch's parts each of this process's devices holds.
    parts = sorted(
      {
        sum(place[dim] * step for dim, step in zip(dims, steps, strict=True))
        for place, device in np.ndenumerate(mesh.devices)
        if device.process_index == jax.process_index()
      }
    )
    first, number, count = parts[0], len(parts), math.prod(sizes)
    adjacent = parts == list(range(first, first + number))
    if not adjacent or first % number or count % number:
      raise ValueError(
        f"process {jax.process_index()} holds parts {parts} of {count} of the"
        f" batch, not an equal share: order Layout.mesh ({_sizes(mesh.shape)})"
        f" so that {' and '.join(self.batch_axes)} come first, and make their"
        " sizes divide by the processes"
      )
    return first // number, count // number

  def check_batch(self, batch_size: int, microbatches: int = 1):
    """Refuses a global batch whose rows cannot be shared out evenly.

    Raises:
      ValueError: `batch_size` is not a multiple of what the message names.
    """
    mesh = self.device_mesh()
    sizes = {axis: mesh.shape[axis] for axis in self.batch_axes}
    divisor = microbatches * math.prod(sizes.values())
    if batch_size % divisor:
      factors = _sizes({"microbatches": microbatches, **sizes})
      raise ValueError(
        f"batch_size ({batch_size}) must be divisible by {factors} = {divisor}"
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


def _rule(rule: Sequence, mesh: Mapping[str, int]) -> Rule:
  """Checks one of Layout.rules; gin's may be lists."""
  rule = tuple(rule)
  if len(rule) != 2 or not isinstance(rule[0], str):
    raise ValueError(
      f"Layout.rules: {rule} must be a pair of a logical axis and mesh axes"
    )
  axes = as_axes(rule[1])
  if set(axes) - mesh.keys() or len(set(axes)) < len(axes):
    raise ValueError(
      f"Layout.rules: {rule} must name axes of Layout.mesh, each once"
      f" ({', '.join(mesh)}), or None"
    )
  return rule[0], _one_or_all(axes)


def as_axes(mesh_axes: MeshAxes) -> tuple[str, ...]:
  """Returns mesh axes as a tuple, however many there are."""
  if mesh_axes is None:
    return ()
  return (mesh_axes,) if isinstance(mesh_axes, str) else tuple(mesh_axes)


def _one_or_all(axes) -> MeshAxes:
  """Returns mesh axes as PartitionSpec has them: None, one, or a tuple."""
  axes = tuple(axes)
  return axes if len(axes) > 1 else axes[0] if axes else None


def _ways(mesh_axes: MeshAxes, mesh: Mesh) -> int:
  """Returns how many parts these mesh axes cut a dim into."""
  return math.prod(mesh.shape[axis] for axis in as_axes(mesh_axes))


def _sizes(mesh: Mapping[str, int]) -> str:
  """Returns "data (2) x tensor (4)"."""
  return " x ".join(f"{axis} ({size})" for axis, size in mesh.items())


@functools.cache
def _log_once(message: str):
  logging.info("%s", message)
