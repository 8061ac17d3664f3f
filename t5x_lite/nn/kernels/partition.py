"""The devices that a kernel is compiled for, and what each of them computes.

XLA partitions its own operations over a mesh, but not a Pallas kernel, which
runs on each device's share of rows and heads.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from t5x_lite.nn import sharding

# A logical axis, or None, for each dim of an array.
Axes = tuple[str | None, ...]

QUERIES = ("batch", "heads", None, None)
KEYS = ("batch", "kv_heads", None, None)


_ASSUMED = contextvars.ContextVar("assumed", default=None)


@contextlib.contextmanager
def assumed(platform: str | None) -> Iterator[None]:
  """Has programs traced as for a platform, to count what they would hold."""
  token = _ASSUMED.set(platform)
  try:
    yield
  finally:
    _ASSUMED.reset(token)


def platform() -> str:
  """Returns what the program at hand is compiled for: "cpu", "gpu" or "tpu".

  The devices of the mesh say it (jax.set_mesh), which may be absent ones that
  are only compiled for; without a mesh, the devices that are here.
  """
  if (name := _ASSUMED.get()) is not None:
    return name
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.platform if device else jax.default_backend()


def ways(axis: str, size: int) -> int:
  """Returns how many shares a dim of this logical axis and size has."""
  return sharding.shards(_dividing(axis, size))


def keys_for_heads(
  k_BKSH: jax.Array, v_BKSH: jax.Array, num_heads: int
) -> tuple[jax.Array, jax.Array, Axes]:
  """Returns keys and values that each device's heads can read, and their axes.

  Key heads that their mesh axes do not divide as they do the heads are repeated
  for each head; that of multi-query attention is whole on each device.
  """
  num_kv_heads = k_BKSH.shape[1]
  if num_kv_heads == 1 or (
    ways("kv_heads", num_kv_heads) == ways("heads", num_heads)
  ):
    return k_BKSH, v_BKSH, KEYS
  repeats = num_heads // num_kv_heads
  k_BNSH, v_BNSH = (jnp.repeat(x, repeats, axis=1) for x in (k_BKSH, v_BKSH))
  return k_BNSH, v_BNSH, QUERIES


def per_device(
  kernel: Callable[..., jax.Array], *arguments: tuple[jax.Array | None, Axes]
) -> jax.Array:
  """Runs a kernel on each device's share of its arguments.

  A dim that its mesh axes do not divide is computed by each device in whole, as
  is one of an axis without a rule.

  Args:
    kernel: a function of the arguments' shares, that returns an array laid out
      as its first argument.
    *arguments: arrays, or None, and their logical axes.
  """
  arrays, axes = zip(*arguments, strict=True)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return kernel(*arrays)
  specs = tuple(
    None if x is None else _spec(names, x.shape)
    for x, names in zip(arrays, axes, strict=True)
  )
  # A kernel's outputs do not say over which axes they vary: check_vma=False.
  return jax.shard_map(
    kernel, in_specs=specs, out_specs=specs[0], check_vma=False
  )(*arrays)


def _dividing(axis, size) -> dict[str, int]:
  """Returns the mesh axes that a dim is sharded over, if they divide it."""
  found = {} if axis is None else sharding.mesh_axes(axis)
  return {} if size % sharding.shards(found) else found


def _spec(axes, shape) -> PartitionSpec:
  return PartitionSpec(
    *(
      tuple(_dividing(axis, size)) or None
      for axis, size in zip(axes, shape, strict=True)
    )
  )
