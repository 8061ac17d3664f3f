"""Heads over a stack: vocabulary logits, classes, rewards."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.nn.attention_rules import TokenInfo
from t5x_lite.nn.dropout import dropout
from t5x_lite.nn.feedforward import ACTIVATIONS
from t5x_lite.nn.linear import Dense, FanIn, Init
from t5x_lite.nn.parameters import parameter

POOLS = ("first", "last", "mean")


class Head(NamedTuple):
  """Turns hidden states into logits over the vocabulary.

  Attributes:
    kernel_DV: float32.
    bias_V: float32, or None.
    soft_cap: c in c * tanh(logits / c) (Gemma Team 2024, arXiv:2408.00118,
      section 2), or None.
  """

  kernel_DV: jax.Array
  bias_V: jax.Array | None = None
  soft_cap: float | None = None

  def __call__(self, hidden_BTD: jax.Array) -> jax.Array:
    """Returns float32 logits [B, T, V]."""
    logits_BTV = jnp.einsum(
      "BTD,DV->BTV", hidden_BTD, self.kernel_DV.astype(hidden_BTD.dtype),
      preferred_element_type=jnp.float32,
    )  # fmt: skip
    if self.bias_V is not None:
      logits_BTV += self.bias_V
    if self.soft_cap is not None:
      logits_BTV = self.soft_cap * jnp.tanh(logits_BTV / self.soft_cap)
    return logits_BTV


class HeadTransform(nn.Module):
  """Transforms hidden states before the masked-LM head.

  Dense, activation, norm: BERT's (Devlin et al. 2019, arXiv:1810.04805).
  """

  norm: nn.Module
  activation: str = "gelu"
  kernel_init: Init = FanIn()

  def __post_init__(self):
    # The caller may have given it to a stack too, which would share parameters.
    checks.fields(self)
    self.norm = self.norm.clone()
    super().__post_init__()

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    width = x_BTD.shape[-1]
    h_BTD = Dense(
      (width,), (width,), ("embed", "mlp"), use_bias=True,
      kernel_init=self.kernel_init, name="dense",
    )(x_BTD)  # fmt: skip
    return self.norm(ACTIVATIONS[self.activation](h_BTD))


class LMHead(nn.Module):
  """Predicts words: the head over the vocabulary and what comes before it.

  Attributes:
    tied: whether its kernel is the transpose of the embedding; where that has
      another width, a projection comes before.
    scale: whether logits are multiplied by 1/sqrt(D), which T5 1.0 and PaLM do
      because their head is the embedding.
    transform: transforms hidden states first (BERT), or None.
    use_bias: whether the logits have a bias.
    normalize: whether each word's column of the kernel has norm 1 (Yang et al.
      2023, Baichuan 2, arXiv:2309.10305, section 2.4).
    soft_cap: c in c * tanh(logits / c), or None.
  """

  tied: bool = False
  scale: bool = False
  transform: HeadTransform | None = None
  use_bias: bool = False
  normalize: bool = False
  soft_cap: checks.Positive | None = None

  def __post_init__(self):
    checks.fields(self)
    super().__post_init__()

  @nn.compact
  def read(
    self, hidden_BTD: jax.Array, embedding_VD: jax.Array
  ) -> tuple[jax.Array, Head]:
    """Returns the states that the head turns into logits, and the head."""
    width = hidden_BTD.shape[-1]
    if self.transform is not None:
      hidden_BTD = self.transform.copy(name="head_transform")(hidden_BTD)
    vocab_size, embedding_width = embedding_VD.shape
    if self.tied:
      kernel_DV = embedding_VD.T
      if embedding_width != width:
        hidden_BTD = Dense(
          (width,), (embedding_width,), ("embed", "mlp"), name="head_projection"
        )(hidden_BTD)
    else:
      kernel_DV = parameter(
        self, "head", ("embed", "vocab"), (width, vocab_size),
        nn.initializers.normal(width**-0.5),
      )  # fmt: skip
    if self.normalize:
      kernel_DV /= jnp.linalg.norm(kernel_DV, axis=0, keepdims=True)
    if self.scale:
      kernel_DV = kernel_DV * width**-0.5
    bias_V = None
    if self.use_bias:
      shape, zeros = (vocab_size,), nn.initializers.zeros
      bias_V = parameter(self, "head_bias", ("vocab",), shape, zeros)
    return hidden_BTD, Head(kernel_DV, bias_V, self.soft_cap)


class Classifier(nn.Module):
  """Turns hidden states into the logits of classes.

  One score per text (sequence classification, next sentence, and with one
  class a reward), or per token.

  Attributes:
    num_classes: 1 is a reward.
    pool: the state that is classified: "first" (BERT's [CLS]), "last" (GPT's
      last token), "mean"; None classifies each token.
    transform: activation of a dense layer before the logits (tanh in BERT's
      pooler), or None.
    use_bias: of the layer that gives the logits.
    dropout_rate: share of that layer's input dropped in training.
    kernel_init: initialises both layers.
  """

  num_classes: checks.Count
  pool: str | None = "first"
  transform: str | None = None
  use_bias: bool = True
  dropout_rate: checks.Share = 0.0
  kernel_init: Init = FanIn()

  def __post_init__(self):
    checks.fields(self)
    if self.pool is not None and self.pool not in POOLS:
      raise ValueError(
        f"unknown Classifier.pool {self.pool!r}: use None (each token) or one "
        f"of {', '.join(POOLS)}"
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, x_BTD: jax.Array, tokens: TokenInfo) -> jax.Array:
    """Returns float32 logits [B, classes], or [B, T, classes]."""
    x = x_BTD if self.pool is None else self._text(x_BTD, tokens)
    width = x.shape[-1]
    if self.transform is not None:
      x = Dense(
        (width,), (width,), ("embed", "mlp"), use_bias=True,
        kernel_init=self.kernel_init, name="dense",
      )(x)  # fmt: skip
      x = ACTIVATIONS[self.transform](x)
    x = dropout(self, x, self.dropout_rate)
    return Dense(
      (width,), (self.num_classes,), ("embed", "classes"),
      use_bias=self.use_bias, kernel_init=self.kernel_init, name="logits",
    )(x).astype(jnp.float32)  # fmt: skip

  def _text(self, x_BTD, tokens):
    real_BT = jnp.broadcast_to(tokens.segment != 0, x_BTD.shape[:2])
    if self.pool == "first":
      return x_BTD[:, 0]
    if self.pool == "last":
      last_B = jnp.max(jnp.arange(x_BTD.shape[1]) * real_BT, axis=1)
      return jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)[:, 0]
    real_BT1 = real_BT[..., None].astype(x_BTD.dtype)
    return jnp.sum(x_BTD * real_BT1, 1) / jnp.maximum(jnp.sum(real_BT1, 1), 1)
