"""Weight matmuls and the initialisation of their kernels."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


@jax.custom_vjp
def matmul(x: jax.Array, w: jax.Array) -> jax.Array:
  """Multiplies [..., I] by [I, O], with a backward of two plain matmuls.

  Autodiff contracts batch and length as two dims, which XLA's CPU backend
  runs far from peak; one flat dim of rows keeps all three products fast.
  """
  return _forward(x, w)[0]


def _forward(x, w):
  rows = x.reshape(-1, x.shape[-1])
  return (rows @ w).reshape(*x.shape[:-1], w.shape[-1]), (x, w)


def _backward(residuals, g):
  x, w = residuals
  g_rows = g.reshape(-1, g.shape[-1])
  x_rows = x.reshape(-1, x.shape[-1])
  return (g_rows @ w.T).reshape(x.shape), x_rows.T @ g_rows


matmul.defvjp(_forward, _backward)


class Dense(nn.Module):
  """Contracts the last `len(in_shape)` dims of x with a kernel.

  Attributes:
    in_shape: kernel dims that are contracted, e.g. (N, H).
    out_shape: kernel dims that appear, e.g. (D,).
    axes: the kernel's logical axes, one per dim.
    init_scale: variance of the kernel times its fan-in.
    use_bias: whether a bias of `out_shape` is added.
  """

  in_shape: Sequence[int]
  out_shape: Sequence[int]
  axes: Sequence[str]
  init_scale: float = 1.0
  use_bias: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    fan_in, fan_out = math.prod(self.in_shape), math.prod(self.out_shape)
    stddev = math.sqrt(self.init_scale / fan_in)
    kernel = self.param(
      "kernel",
      nn.with_logical_partitioning(
        nn.initializers.normal(stddev), tuple(self.axes)
      ),
      (*self.in_shape, *self.out_shape),
      jnp.float32,
    )
    batch_shape = x.shape[: x.ndim - len(self.in_shape)]
    y = matmul(
      x.reshape(*batch_shape, fan_in),
      kernel.astype(x.dtype).reshape(fan_in, fan_out),
    ).reshape(*batch_shape, *self.out_shape)
    if self.use_bias:
      out_axes = tuple(self.axes[len(self.in_shape) :])
      init = nn.with_logical_partitioning(nn.initializers.zeros, out_axes)
      y += self.param("bias", init, tuple(self.out_shape), jnp.float32).astype(
        y.dtype
      )
    return y
