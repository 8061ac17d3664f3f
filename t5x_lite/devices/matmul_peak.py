"""Measures what the devices can do, to judge what a model makes of it."""

import time

import jax
import jax.numpy as jnp


def matmul_flops(dtype: str = "float32", *, seconds: float = 0.3) -> float:
  """Measures the FLOP/s of a large square matmul, over all devices.

  The best of several products on one device, times the number of devices.

  Args:
    dtype: of the factors.
    seconds: to measure for; the first product compiles and does not count.
  """
  # Large enough to reach the peak, small enough to take milliseconds.
  size = 2048 if jax.default_backend() == "cpu" else 8192
  x = jnp.ones((size, size), dtype)
  best = _best(jax.jit(jnp.matmul), x, x, seconds=seconds)
  return 2.0 * size**3 / best * _independent_devices()


def bytes_per_second(*, seconds: float = 0.3) -> float:
  """Measures how fast a device reads its memory: a matrix times a vector.

  The best of several products with a matrix too large for any cache.

  Args:
    seconds: to measure for; the first product compiles and does not count.
  """
  size = 8192 if jax.default_backend() == "cpu" else 32_768
  matrix, vector = jnp.ones((size, size), "float32"), jnp.ones(size, "float32")
  best = _best(jax.jit(jnp.dot), matrix, vector, seconds=seconds)
  return matrix.nbytes / best


def _best(function, *args, seconds):
  """Returns the least seconds that a compiled function takes."""
  function(*args).block_until_ready()
  best, begun = float("inf"), time.perf_counter()
  while time.perf_counter() - begun < seconds:
    start = time.perf_counter()
    function(*args).block_until_ready()
    best = min(best, time.perf_counter() - start)
  return best


def _independent_devices() -> int:
  """Counts the devices that do not share their cores with others."""
  return 1 if jax.default_backend() == "cpu" else jax.device_count()
