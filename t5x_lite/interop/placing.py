"""Puts parameters onto their devices one tensor at a time, and takes them off.

Stacked parameters, [L, ...] of scanned layers or [E, ...] of experts, are never
whole on the host: each part is written into the array where it lies.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.devices.layout import Layout
from t5x_lite.files import trees
from t5x_lite.interop.tables import Slot
from t5x_lite.model import Model


def on(model: Model, dtypes: Mapping[str, str], layout: Layout | None) -> Any:
  """Returns a model's shapes, each with its dtype and where it shall lie.

  Args:
    model: whose parameters they are.
    dtypes: of each parameter by its path.
    layout: None means the first device.
  """
  abstract = model.abstract()
  if layout is None:
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda leaf: first, abstract)
  else:
    axes = model.logical_axes()
    shardings = layout.fit(axes, abstract).tree_shardings(axes, abstract)
  return jax.tree.map(
    lambda leaf, name, sharding: jax.ShapeDtypeStruct(
      leaf.shape, dtypes[name], sharding=sharding
    ),
    abstract,
    trees.tree_of_names(abstract),
    shardings,
  )


def place(parts: Iterable[tuple[Slot, np.ndarray]], abstract: Any) -> Any:
  """Builds parameters from their parts.

  Args:
    parts: slots and what lies there; cast to the leaf's dtype. All slots of
      the tree once, in any order; each is taken only when the last is placed.
    abstract: tree of ShapeDtypeStructs with shardings, as of `on`.
  """
  leaves, placed = trees.named_leaves(abstract), {}
  for slot, value in parts:
    leaf = leaves[slot.path]
    if not slot.index:
      placed[slot.path] = _put(value, leaf)
      continue
    if slot.path not in placed:
      placed[slot.path] = _zeros(leaf.shape, leaf.dtype, leaf.sharding)()
    part = jax.ShapeDtypeStruct(
      slot.shape, leaf.dtype, sharding=_without(leaf.sharding, len(slot.index))
    )
    placed[slot.path] = _write(leaf.sharding)(
      placed[slot.path], _put(value, part), np.array(slot.index, np.int32)
    )
  structure = jax.tree.structure(abstract)
  return jax.tree.unflatten(structure, [placed[name] for name in leaves])


def _without(sharding: jax.sharding.Sharding, dims: int):
  """Returns the sharding of what lies at an index into the first dims."""
  if not isinstance(sharding, jax.NamedSharding):
    return sharding
  return jax.NamedSharding(sharding.mesh, jax.P(*sharding.spec[dims:]))


def _put(value: np.ndarray, leaf: jax.ShapeDtypeStruct) -> jax.Array:
  """Copies to each device its part, cast on the way."""
  return jax.make_array_from_callback(
    leaf.shape,
    leaf.sharding,
    # A copy, since on CPU a device may keep the very memory of the file.
    lambda index: np.array(value[index], leaf.dtype, order="C"),
  )


@functools.cache
def _zeros(shape, dtype, sharding):
  return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)


@functools.cache
def _write(sharding):
  @functools.partial(jax.jit, donate_argnums=0, out_shardings=sharding)
  def write(whole, part, index):
    rest = whole.ndim - len(index)
    start = [*index, *[0] * rest]
    part = part.reshape((1,) * len(index) + part.shape)
    return jax.lax.dynamic_update_slice(whole, part, start)

  return write


def take(slot: Slot, leaf: Any) -> np.ndarray:
  """Brings what lies in a slot to the host; all processes call it."""
  part = leaf
  if slot.index:
    part = leaf[slot.index]
  if isinstance(part, jax.Array) and not part.is_fully_addressable:
    from jax.experimental import multihost_utils

    part = multihost_utils.process_allgather(part, tiled=True)
  return np.asarray(part)
