"""Normalisation layers. Statistics are float32 whatever the activations are."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.nn import remat
from t5x_lite.nn.parameters import parameter


def _vector(module: nn.Module, name: str, init, width: int) -> jax.Array:
  return parameter(module, name, (module.axis,), (width,), init)


class RMSNorm(nn.Module):
  """Divides by the root mean square and scales, without a mean or a bias.

  Zhang and Sennrich 2019, arXiv:1910.07467; T5's "layer norm".

  Attributes:
    epsilon: added to the mean square.
    zero_centred: the parameter is the scale's distance from 1 (Gemma).
    axis: logical axis of what is normalised.
  """

  epsilon: checks.NotNegative = 1e-6
  zero_centred: bool = False
  axis: str = "embed"

  def __post_init__(self):
    checks.fields(self)
    super().__post_init__()

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    start = nn.initializers.zeros if self.zero_centred else nn.initializers.ones
    scale_D = _vector(self, "scale", start, x_BTD.shape[-1])
    if self.zero_centred:
      scale_D = 1 + scale_D
    return _rms_norm(x_BTD, scale_D, self.epsilon)


class LayerNorm(nn.Module):
  """Subtracts the mean, divides by the deviation, scales and shifts.

  Ba et al. 2016, arXiv:1607.06450; `use_bias=False` is PaLM's.
  """

  epsilon: checks.NotNegative = 1e-5
  use_bias: bool = True
  axis: str = "embed"

  def __post_init__(self):
    checks.fields(self)
    super().__post_init__()

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    width = x_BTD.shape[-1]
    scale_D = _vector(self, "scale", nn.initializers.ones, width)
    bias_D = None
    if self.use_bias:
      bias_D = _vector(self, "bias", nn.initializers.zeros, width)
    return _layer_norm(x_BTD, scale_D, bias_D, self.epsilon)


@remat.cheap
def _rms_norm(x_BTD, scale_D, epsilon):
  x32_BTD = x_BTD.astype(jnp.float32)
  variance_BT1 = jnp.mean(jnp.square(x32_BTD), axis=-1, keepdims=True)
  y_BTD = x32_BTD * jax.lax.rsqrt(variance_BT1 + epsilon)
  return (y_BTD * scale_D).astype(x_BTD.dtype)


@remat.cheap
def _layer_norm(x_BTD, scale_D, bias_D, epsilon):
  x32_BTD = x_BTD.astype(jnp.float32)
  centred_BTD = x32_BTD - jnp.mean(x32_BTD, axis=-1, keepdims=True)
  variance_BT1 = jnp.mean(jnp.square(centred_BTD), axis=-1, keepdims=True)
  y_BTD = centred_BTD * jax.lax.rsqrt(variance_BT1 + epsilon) * scale_D
  if bias_D is not None:
    y_BTD += bias_D
  return y_BTD.astype(x_BTD.dtype)
