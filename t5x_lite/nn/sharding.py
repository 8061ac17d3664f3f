"""What code must know of the active layout, beside its constraints."""

import math

import flax.linen as nn
import jax


def mesh_axes(logical_axis: str) -> dict[str, int]:
  """Returns the mesh axes that shard a logical axis, with their sizes.

  Those of the mesh and the rules that devices/layout.py has activated; none
  outside of a layout, and none of size 1.
  """
  sizes = jax.sharding.get_abstract_mesh().shape
  (axes,) = nn.logical_to_mesh_axes((logical_axis,)) or (None,)
  axes = (axes,) if isinstance(axes, str) else axes or ()
  return {axis: sizes[axis] for axis in axes if sizes.get(axis, 1) > 1}


def shards(axes: dict[str, int]) -> int:
  """Returns the number of parts that mesh axes cut a dim into."""
  return math.prod(axes.values())


def gathered(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  """Returns a parameter without the shards that rows of a batch have too.

  Args:
    x: the parameter.
    axes: its logical axes, one per dim.
  """
  rows = mesh_axes("batch").keys()
  kept = (None if mesh_axes(axis).keys() <= rows else axis for axis in axes)
  return nn.with_logical_constraint(x, tuple(kept))
