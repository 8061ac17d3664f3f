"""Feed-forward layers: plain and gated, over any activation."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.nn import remat
from t5x_lite.nn.attention_rules import AttentionRule, TokenInfo
from t5x_lite.nn.dropout import dropout
from t5x_lite.nn.linear import Dense, FanIn, Init, gradient_apart

ACTIVATIONS = {
  "relu": jax.nn.relu,
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
  # The tanh form: what T5 v1.1 and GPT-2 call GELU.
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
  "silu": jax.nn.silu,
  "tanh": jnp.tanh,
  "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),
}


class FeedForward(nn.Module):
  """Base of all feed-forward layers, what Layer.mlp may be."""

  def check(self, rule: AttentionRule):
    """Refuses the attention rule of a stack that the layer does not fit."""
    del rule

  def __call__(self, x_BTD: jax.Array, tokens: TokenInfo) -> jax.Array:
    """Transforms activations [B, T, D].

    Args:
      x_BTD: activations, normalised.
      tokens: where the T tokens stand.
    """
    raise NotImplementedError


class MLP(FeedForward):
  """Widens to `hidden`, applies the activation, and narrows again.

  Attributes:
    hidden: F, the inner width.
    activation: a name in ACTIVATIONS.
    use_bias: whether the projections have biases.
    dropout_rate: share of the inner features dropped in training.
    kernel_init: initialises the projections.
    out_init: instead, for the last one.
  """

  hidden: checks.Count
  activation: str = "relu"
  use_bias: bool = False
  dropout_rate: checks.Share = 0.0
  kernel_init: Init = FanIn()
  out_init: Init | None = None

  def __post_init__(self):
    checks.fields(self)
    checks.one_of(self, "activation", ACTIVATIONS)
    super().__post_init__()

  @nn.compact
  def __call__(
    self, x_BTD: jax.Array, tokens: TokenInfo | None = None
  ) -> jax.Array:
    """Transforms each token by itself, whatever its position."""
    del tokens
    h_BTF = self._widen(x_BTD)
    h_BTF = nn.with_logical_constraint(h_BTF, ("batch", "length", "mlp"))
    h_BTF = dropout(self, h_BTF, self.dropout_rate)
    out_shape = (x_BTD.shape[-1],)
    return Dense(
      (self.hidden,), out_shape, ("mlp", "embed"), use_bias=self.use_bias,
      kernel_init=self.out_init or self.kernel_init, name="wo",
    )(h_BTF)  # fmt: skip

  def _widen(self, x_BTD):
    activation = remat.cheap(ACTIVATIONS[self.activation])
    return activation(self._project("wi", x_BTD))

  def _project(self, name, x_BTD):
    in_shape = (x_BTD.shape[-1],)
    return Dense(
      in_shape, (self.hidden,), ("embed", "mlp"), use_bias=self.use_bias,
      kernel_init=self.kernel_init, name=name,
    )(x_BTD)  # fmt: skip


class Gated(MLP):
  """Multiplies the activated projection by a linear one (GEGLU, SwiGLU).

  Shazeer 2020, arXiv:2002.05202.
  """

  def _widen(self, x_BTD):
    activation = ACTIVATIONS[self.activation]
    gated = remat.cheap(lambda gate, linear: activation(gate) * linear)
    x_BTD = gradient_apart(x_BTD)
    gate_BTF, linear_BTF = gradient_apart(
      (self._project("wi_gate", x_BTD), self._project("wi_linear", x_BTD))
    )
    return gradient_apart(gated(gate_BTF, linear_BTF))
