"""Dropout: on exactly when the caller supplies a "dropout" key."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def dropout(module: nn.Module, x: jax.Array, rate: float) -> jax.Array:
  """Zeroes a share `rate` of x and scales up the rest, in training only.

  Srivastava et al. 2014. A key in the "dropout" collection means training; no
  flag travels through the stack.
  """
  if rate == 0.0 or not module.has_rng("dropout"):
    return x
  keep = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, x.shape)
  return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))
