"""Rounds float32 numbers to bfloat16 at random, and so without bias.

    bfloat16 neighbours     1.0                1.0078125
    1.001 becomes           1.0 (7 of 8 times)  1.0078125 (1 of 8)

Parameters that are kept in bfloat16 between steps would not move by updates of
less than half the distance to a neighbour, 1/512 of their size, if these were
rounded to nearest. Gupta et al. 2015, arXiv:1502.02551, section 3.
"""

from typing import Any

import jax
import jax.numpy as jnp


def widened(tree: Any) -> Any:
  """Returns a tree with all floats in float32."""
  return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def rounded(tree: Any, like: Any, key: jax.Array) -> Any:
  """Returns a tree in the dtypes of another.

  Args:
    tree: of float32 arrays.
    like: of arrays in float32, which are not rounded, or bfloat16.
    key: of the random bits.
  """
  leaves, structure = jax.tree.flatten(tree)
  dtypes = [x.dtype for x in jax.tree.leaves(like)]
  return structure.unflatten(
    _round(x, jax.random.fold_in(key, i)) if dtype == jnp.bfloat16 else x
    for i, (x, dtype) in enumerate(zip(leaves, dtypes, strict=True))
  )


def _round(x, key):
  # bfloat16 is the upper half of float32: a random lower half carries into it
  # as often as x is far from the lower neighbour.
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
  bits += jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
  upper = (bits >> 16).astype(jnp.uint16)
  near = jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
  return jnp.where(jnp.isfinite(x), near, x.astype(jnp.bfloat16))
