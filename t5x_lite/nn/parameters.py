"""Makes parameters: float32 arrays whose dims have logical axes."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


def parameter(
  module: nn.Module,
  name: str,
  axes: Sequence[str],
  shape: Sequence[int],
  init: Callable,
) -> jax.Array:
  """Returns a parameter of a module; to be called in its compact method.

  Args:
    module: owns the parameter.
    name: of the parameter.
    axes: the logical axis of each dim.
    shape: the size of each dim.
    init: draws the initial values, as jax.nn.initializers do.
  """
  init = nn.with_logical_partitioning(init, tuple(axes))
  return module.param(name, init, tuple(shape), jnp.float32)
