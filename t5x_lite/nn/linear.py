"""Weight matmuls and the initialisation of their kernels."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.nn import sharding
from t5x_lite.nn.kernels import partition
from t5x_lite.nn.parameters import parameter


def contract(
  x: jax.Array, w: jax.Array, axes: tuple[str, ...], dims: int
) -> jax.Array:
  """Contracts the last `dims` dims of x with the first of a kernel.

  An accelerator's compiler gets all dims as they are, so that it can write the
  result transposed, or into an array of all layers: flattened, a training step
  of LLaMA 7B on TPUs v5p took 1.42 s of compute, by XLA's estimate, for 1.2.

  Args:
    x: activations.
    w: the kernel.
    axes: the logical axes of w.
    dims: how many are contracted.
  """
  if partition.platform() != "cpu":
    return _contract(x, w, axes, dims)
  batch_shape, out_shape = x.shape[: x.ndim - dims], w.shape[dims:]
  fan_in, fan_out = math.prod(w.shape[:dims]), math.prod(out_shape)
  y = matmul(x.reshape(*batch_shape, fan_in), w.reshape(fan_in, fan_out))
  return y.reshape(*batch_shape, *out_shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _contract(x, w, axes, dims):
  """Contracts, and says where devices exchange a kernel that they share out.

  A kernel sharded over the devices of different rows (FSDP) is gathered once in
  each pass, and its gradient added up straight into shards. XLA's partitioner,
  left to itself, gathers some kernels twice in a backward pass that computes a
  layer again.
  """
  return _contract_forward(x, w, axes, dims)[0]


def _contract_forward(x, w, axes, dims):
  # The product itself, not a call of _contract, in which a policy of what is
  # saved would not see it. Not the gathered kernel, which would be kept.
  return jnp.tensordot(x, sharding.gathered(w, axes), dims), (x, w)


def _contract_backward(axes, dims, residuals, g):
  x, w = residuals
  whole = sharding.gathered(w, axes)
  (dx,) = jax.linear_transpose(lambda x: jnp.tensordot(x, whole, dims), x)(g)
  (dw,) = jax.linear_transpose(lambda w: jnp.tensordot(x, w, dims), whole)(g)
  return dx, nn.with_logical_constraint(dw, axes)


_contract.defvjp(_contract_forward, _contract_backward)


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


def gradient_apart(x: Any) -> Any:
  """Returns arrays; on TPUs, their gradients are computed by themselves.

  Otherwise XLA computes the elementwise gradients between two matmuls within
  both of them, and such matmuls take longer, by its own estimate, than all of
  it one after the other.
  """
  return _gradient_apart(x) if partition.platform() == "tpu" else x


@jax.custom_vjp
def _gradient_apart(x):
  return x


_gradient_apart.defvjp(
  lambda x: (x, None), lambda _, g: (jax.lax.optimization_barrier(g),)
)


@dataclasses.dataclass(frozen=True)
class FanIn:
  """Draws kernels of variance `scale` / fan-in, T5's and T5X's way."""

  scale: checks.NotNegative = 1.0

  def __post_init__(self):
    checks.fields(self)

  def stddev(self, fan_in: int, fan_out: int) -> float:
    del fan_out
    return math.sqrt(self.scale / fan_in)


@dataclasses.dataclass(frozen=True)
class Normal:
  """Draws kernels of one deviation, whatever their size (GPT-2, BERT).

  Attributes:
    deviation: of the values.
    num_layers: L, for what ends a branch: divides by sqrt(2 L), so that the sum
      of all branches does not grow with depth (Radford et al. 2019, GPT-2,
      section 2.3).
  """

  deviation: checks.NotNegative = 0.02
  num_layers: checks.Layers | None = None

  def __post_init__(self):
    checks.fields(self)

  def stddev(self, fan_in: int, fan_out: int) -> float:
    del fan_in, fan_out
    branches = 2 * self.num_layers if self.num_layers else 1
    return self.deviation / math.sqrt(branches)


@dataclasses.dataclass(frozen=True)
class Xavier:
  """Draws kernels of variance 2 gain^2 / (fan-in + fan-out).

  Glorot and Bengio 2010; DeepNorm lowers the gain (arXiv:2203.00555).
  """

  gain: checks.NotNegative = 1.0

  def __post_init__(self):
    checks.fields(self)

  def stddev(self, fan_in: int, fan_out: int) -> float:
    return self.gain * math.sqrt(2 / (fan_in + fan_out))


Init = FanIn | Normal | Xavier


class Dense(nn.Module):
  """Contracts the last `len(in_shape)` dims of x with a kernel.

  Attributes:
    in_shape: kernel dims that are contracted, e.g. (N, H).
    out_shape: kernel dims that appear, e.g. (D,).
    axes: the kernel's logical axes, one per dim.
    kernel_init: how the kernel starts.
    use_bias: whether a bias of `out_shape` is added.
  """

  in_shape: Sequence[int]
  out_shape: Sequence[int]
  axes: Sequence[str]
  kernel_init: Init = FanIn()
  use_bias: bool = False

  def __post_init__(self):
    checks.fields(self)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    fan_in, fan_out = math.prod(self.in_shape), math.prod(self.out_shape)
    stddev = self.kernel_init.stddev(fan_in, fan_out)
    kernel = parameter(
      self,
      "kernel",
      self.axes,
      (*self.in_shape, *self.out_shape),
      nn.initializers.normal(stddev),
    )
    kernel = kernel.astype(x.dtype)
    y = contract(x, kernel, tuple(self.axes), len(self.in_shape))
    if self.use_bias:
      axes = self.axes[len(self.in_shape) :]
      zeros = nn.initializers.zeros
      bias = parameter(self, "bias", axes, self.out_shape, zeros)
      y += bias.astype(y.dtype)
    return y
