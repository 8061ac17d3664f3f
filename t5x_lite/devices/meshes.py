"""Arranges devices in a mesh, along the networks that join them."""

import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from absl import logging
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh


@functools.cache
def build(sizes: tuple[tuple[str, int], ...], num_slices: int | None) -> Mesh:
  """Returns the mesh over all devices of all processes.

  Args:
    sizes: pairs of a mesh axis and the number of devices along it.
    num_slices: as `Layout.num_slices`.
  """
  axes, shape = zip(*sizes, strict=True)
  auto = (AxisType.Auto,) * len(axes)
  devices = arrange_slices(jax.devices(), dict(sizes), num_slices)
  if devices is None:
    return jax.make_mesh(shape, axes, axis_types=auto)
  return Mesh(devices, axes, axis_types=auto)


def arrange_slices(
  devices: Sequence, mesh: Mapping[str, int], num_slices: int | None
) -> np.ndarray | None:
  """Arranges devices so that only the first mesh axis crosses slices.

  Args:
    devices: all devices.
    mesh: mesh axis -> number of devices along it.
    num_slices: as `Layout.num_slices`.

  Returns:
    The devices in that shape; None where they form a single slice.
  """
  by_slice = len({getattr(d, "slice_index", 0) for d in devices})
  by_process = len({d.process_index for d in devices})
  first, *rest = mesh.values()
  name = next(iter(mesh))
  if num_slices is None:
    num_slices = by_slice
    if first % num_slices:  # Not asked for, so no reason to refuse.
      logging.info(
        "%s (%d) crosses %d slices unevenly", name, first, num_slices
      )
      num_slices = 1
  if num_slices == 1:
    return None
  if num_slices not in (by_slice, by_process):
    raise ValueError(
      f"num_slices ({num_slices}) is neither the number of slices ({by_slice})"
      f" nor that of processes ({by_process})"
    )
  if first % num_slices:
    raise ValueError(
      f"{name} ({first}) must be divisible by num_slices ({num_slices})"
    )
  return mesh_utils.create_hybrid_device_mesh(
    (first // num_slices, *rest),
    (num_slices, *(1 for _ in rest)),
    devices,
    process_is_granule=num_slices != by_slice,
  )
