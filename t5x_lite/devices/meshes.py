"""Arranges devices in a mesh, along the networks that join them."""

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from absl import logging
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

# The devices that `absent` plans for, or their number.
_ABSENT = contextvars.ContextVar("absent", default=None)


@contextlib.contextmanager
def absent(devices: Sequence | int) -> Iterator[None]:
  """Makes layouts shard over devices that are not here, to plan for them.

  Args:
    devices: what JAX can compile for (`jax.experimental.topologies`), or only
      the number of devices: the mesh is then abstract.
  """
  given = devices if isinstance(devices, int) else tuple(devices)
  token = _ABSENT.set(given)
  try:
    yield
  finally:
    _ABSENT.reset(token)


def device_count() -> int:
  """Returns the number of devices that a mesh is built over."""
  given = _ABSENT.get()
  if given is None:
    return jax.device_count()
  return given if isinstance(given, int) else len(given)


def build(
  sizes: tuple[tuple[str, int], ...], num_slices: int | None
) -> Mesh | AbstractMesh:
  """Returns the mesh over all devices of all processes.

  Args:
    sizes: pairs of a mesh axis and the number of devices along it.
    num_slices: as `Layout.num_slices`.
  """
  return _build(sizes, num_slices, _ABSENT.get())


@functools.cache
def _build(sizes, num_slices, given):
  axes, shape = zip(*sizes, strict=True)
  auto = (AxisType.Auto,) * len(axes)
  if isinstance(given, int):
    return AbstractMesh(shape, axes, axis_types=auto)
  devices = jax.devices() if given is None else given
  arranged = arrange_slices(devices, dict(sizes), num_slices)
  if arranged is None:
    return jax.make_mesh(shape, axes, axis_types=auto, devices=devices)
  return Mesh(arranged, axes, axis_types=auto)


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
