"""Computes checksums of arrays on their devices: of batches, and of copies.

A checksum is the sum of an array's elements, whose bits are read as integers,
times odd weights, modulo 2**32. Odd numbers have an inverse there, so a change
of one element, by a single bit or by many, always changes the checksum.
"""

import functools
import zlib
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def of_batch(batch: Mapping[str, jax.Array]) -> jax.Array:
  """Returns the checksum of a batch, a uint32 scalar.

  It does not depend on the order of the rows, on how they are sharded, or on
  how many processes have read them. Rows are mixed before they are added up, so
  that tokens exchanged between two rows change it too.

  Args:
    batch: arrays [B, ...] by seqio's names.
  """
  rows_B = 0
  for name, values in batch.items():
    bits = _bits(values).reshape(len(values), -1)
    of_name = np.uint32(zlib.crc32(name.encode()) | 1)
    rows_B += of_name * _weighted_sum(bits)
  return jnp.sum(_mixed(rows_B), dtype=jnp.uint32)


def of_copies(leaves: Iterable[jax.Array]) -> np.ndarray:
  """Returns the checksum of what each device holds of each array.

  A device reads its own memory, so copies that should be equal are compared as
  they are. Every process must call this, and gets the whole table.

  Args:
    leaves: arrays sharded over one mesh.

  Returns:
    uint32 [arrays, devices], in the order of the mesh's devices.
  """
  leaves = tuple(leaves)
  specs = tuple(leaf.sharding.spec for leaf in leaves)
  return np.asarray(_table(leaves[0].sharding.mesh, specs)(leaves))


@functools.cache
def _table(mesh, specs):
  """Returns a compiled function of arrays with these specs on a mesh."""

  def on_a_device(*leaves):
    sums = [_weighted_sum(_bits(leaf).reshape(-1)) for leaf in leaves]
    return jnp.stack(sums)[:, None]

  on_all = jax.shard_map(
    on_a_device,
    mesh=mesh,
    in_specs=specs,
    out_specs=PartitionSpec(None, mesh.axis_names),
    check_vma=False,  # What is replicated may differ: that is the question.
  )
  replicated = NamedSharding(mesh, PartitionSpec())
  return jax.jit(lambda leaves: on_all(*leaves), out_shardings=replicated)


def _bits(values: jax.Array) -> jax.Array:
  """Returns the bits of each element as uint32."""
  values = jnp.asarray(values)
  if values.dtype == jnp.bool:
    return values.astype(jnp.uint32)
  unsigned = jnp.dtype(f"uint{min(values.dtype.itemsize, 4) * 8}")
  return jax.lax.bitcast_convert_type(values, unsigned).astype(jnp.uint32)


def _weighted_sum(bits: jax.Array) -> jax.Array:
  """Sums the last dim of [..., n] uint32 times odd weights."""
  places = jax.lax.iota(jnp.uint32, bits.shape[-1])
  # Knuth's multiplicative hash: neighbours get unlike weights.
  weights = (places * np.uint32(2654435761)) | np.uint32(1)
  return jnp.sum(bits * weights, axis=-1, dtype=jnp.uint32)


def _mixed(x: jax.Array) -> jax.Array:
  """Maps uint32 one to one, not linearly: the finalizer of MurmurHash3."""
  x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
  return x ^ (x >> 16)
