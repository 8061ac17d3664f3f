"""Transformer: embedding, encoder, decoder and heads."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite.nn import checks, pooling
from t5x_lite.nn.attention_rules import Full, TokenInfo
from t5x_lite.nn.caches import StackCache
from t5x_lite.nn.heads import Classifier, Head, HeadTransform
from t5x_lite.nn.linear import Dense, FanIn
from t5x_lite.nn.stack import Stack
from t5x_lite.nn.yoco import DecoderDecoder

DTYPES = ("float32", "bfloat16", "float16")


class Transformer(nn.Module):
  """An encoder, a decoder, or both, over one embedding.

  Attributes:
    width: D.
    vocab_size: V; None until it is known from the tokenizer.
    encoder: or None: a decoder-only model.
    decoder: or None: an encoder-only model.
    share_encoder: whether the encoder is the decoder with the same parameters,
      without cross-attention and under the rule Full (Raffel et al. 2020,
      arXiv:1910.10683, section 3.2.2); `encoder` is None then.
    encoder_width: D of the encoder, if not the decoder's.
    embedding_width: of the embedding, if not D: a projection follows it (Lan et
      al. 2019, arXiv:1909.11942, section 3.1).
    scale_embeddings: whether embeddings are multiplied by sqrt(D) (Vaswani et
      al. 2017, section 3.4; Gemma).
    num_token_types: vectors added by the type of a token (BERT's sentence A or
      B); 0 for none.
    tie_embeddings: whether the head is the transpose of the embedding.
    embedding_stddev: of the embedding's initial values.
    scale_logits: whether logits are multiplied by 1/sqrt(D), which T5 1.0 and
      PaLM do because their head is the embedding.
    head_transform: transforms hidden states before the head (BERT), or None.
    head_bias: whether the logits have a bias.
    normalize_head: whether each word's column of the head has norm 1 (Yang et
      al. 2023, Baichuan 2, arXiv:2309.10305, section 2.4).
    logit_soft_cap: c in c * tanh(logits / c), or None.
    classifier: a head over texts or tokens beside that over words, or None.
    dtype: of the activations; parameters and logits are float32.
  """

  width: int
  vocab_size: int | None = None
  encoder: Stack | None = None
  decoder: Stack | DecoderDecoder | None = None
  share_encoder: bool = False
  encoder_width: int | None = None
  embedding_width: int | None = None
  scale_embeddings: bool = False
  num_token_types: int = 0
  tie_embeddings: bool = False
  embedding_stddev: float = 1.0
  scale_logits: bool = False
  head_transform: HeadTransform | None = None
  head_bias: bool = False
  normalize_head: bool = False
  logit_soft_cap: float | None = None
  classifier: Classifier | None = None
  dtype: str = "float32"

  def __post_init__(self):
    checks.at_least_one(
      self, "width", "vocab_size", "encoder_width", "embedding_width"
    )
    if self.dtype not in DTYPES:
      raise ValueError(
        f"unknown dtype {self.dtype!r}: use one of {', '.join(DTYPES)}"
      )
    self._check_stacks()
    if self.encoder is not None and self.decoder is not None:
      # Parts that the caller gave to both would silently share parameters.
      self.decoder = self.decoder.copy(parent=None)
    super().__post_init__()

  def _check_stacks(self):
    encoder, decoder = self.encoder, self.decoder
    if encoder is None and decoder is None:
      raise ValueError("a Transformer needs an encoder, a decoder or both")
    if encoder and any(layer.cross_attention for layer in encoder.period):
      raise ValueError(
        "the encoder has cross_attention but nothing to attend to: set it in "
        "the decoder's scope alone"
      )
    if encoder and not decoder and encoder.pool > 1:
      raise ValueError(
        f"Stack.pool ({encoder.pool}) leaves no state for each token: an "
        "encoder-only model needs pool=1"
      )
    if self.share_encoder and (encoder or not decoder):
      raise ValueError(
        "share_encoder=True takes the decoder as encoder: set a decoder, and "
        "encoder=None"
      )
    if decoder is None:
      return
    if decoder.pool > 1:
      raise ValueError(f"Stack.pool ({decoder.pool}) is for encoders alone")
    crosses = [layer.cross_attention is not None for layer in decoder.layers]
    if self.has_encoder and not all(crosses):
      raise ValueError(
        "the decoder has no cross_attention to the encoder: set "
        "Layer.cross_attention in the decoder's scope"
      )
    if not self.has_encoder and any(crosses):
      raise ValueError(
        "the decoder has cross_attention but there is no encoder: set "
        "Transformer.encoder, or Layer.cross_attention = None"
      )

  @property
  def has_encoder(self) -> bool:
    """Whether there is an encoder, of its own or shared."""
    return self.encoder is not None or self.share_encoder

  def setup(self):
    if self.vocab_size is None:
      raise ValueError(
        "vocab_size is not set: it comes from a run's tokenizer, or from "
        "--gin.transformer.Transformer.vocab_size=..."
      )
    width = self.embedding_width or self.width
    self.token_embedding = self._parameter(
      "token_embedding", ("vocab", "embed"), (self.vocab_size, width),
      self.embedding_stddev,
    )  # fmt: skip
    if self.num_token_types:
      self.type_embedding = self._parameter(
        "type_embedding", ("types", "embed"), (self.num_token_types, width),
        self.embedding_stddev,
      )  # fmt: skip
    for side in ("encoder", "decoder"):
      if self._side_width(side) != width:
        setattr(
          self, f"{side}_projection", _dense(width, self._side_width(side))
        )
    if self.tie_embeddings and self.top_width != width:
      self.head_projection = _dense(self.top_width, width)
    if not self.tie_embeddings:
      self.head_kernel = self._parameter(
        "head", ("embed", "vocab"), (self.top_width, self.vocab_size),
        self.top_width**-0.5,
      )  # fmt: skip
    if self.head_bias:
      self.head_bias_V = self._parameter(
        "head_bias", ("vocab",), (self.vocab_size,), 0.0
      )

  def _parameter(self, name, axes, shape, stddev):
    init = nn.with_logical_partitioning(nn.initializers.normal(stddev), axes)
    return self.param(name, init, shape, jnp.float32)

  def _side_width(self, side):
    if getattr(self, side) is None:
      return self.embedding_width or self.width
    return (side == "encoder" and self.encoder_width) or self.width

  @property
  def top_width(self) -> int:
    """Returns the width of what the heads read."""
    return self._side_width("encoder" if self.decoder is None else "decoder")

  def embed(
    self, ids_BT: jax.Array, types_BT: jax.Array | None, side: str
  ) -> jax.Array:
    """Looks up embeddings [B, T, D] of one side, in the activations' dtype."""
    x_BTD = jnp.take(self.token_embedding, ids_BT, axis=0).astype(self.dtype)
    if self.scale_embeddings:
      x_BTD *= jnp.asarray(math.sqrt(x_BTD.shape[-1]), self.dtype)
    if self.num_token_types:
      types_BT = jnp.zeros_like(ids_BT) if types_BT is None else types_BT
      types_BTD = jnp.take(self.type_embedding, types_BT, axis=0)
      x_BTD += types_BTD.astype(self.dtype)
    if x_BTD.shape[-1] != self._side_width(side):
      x_BTD = getattr(self, f"{side}_projection")(x_BTD)
    return nn.with_logical_constraint(x_BTD, ("batch", "length", "embed"))

  def encode(
    self,
    ids_BS: jax.Array,
    tokens: TokenInfo,
    types_BS: jax.Array | None = None,
  ) -> tuple[jax.Array, TokenInfo]:
    """Runs the encoder; returns [B, S, D] and where these tokens stand."""
    if self.share_encoder:
      x_BSD = self.embed(ids_BS, types_BS, "decoder")
      return self.decoder(x_BSD, tokens, rule=Full())[0], tokens
    x_BSD = self.embed(ids_BS, types_BS, "encoder")
    tokens_out = pooling.pooled_tokens(tokens, self.encoder.pool)
    return self.encoder(x_BSD, tokens)[0], tokens_out

  def decode(
    self, ids_BT: jax.Array, tokens: TokenInfo, **source_and_cache
  ) -> tuple[jax.Array, StackCache | None]:
    """Runs the decoder; returns [B, T, D] and the cache (Stack.__call__)."""
    x_BTD = self.embed(ids_BT, None, "decoder")
    return self.decoder(x_BTD, tokens, **source_and_cache)

  def before_head(self, hidden_BTD: jax.Array) -> jax.Array:
    """Returns the head's input for the stack's output."""
    if self.head_transform is not None:
      hidden_BTD = self.head_transform(hidden_BTD)
    if self.tie_embeddings and self.top_width != self.token_embedding.shape[1]:
      hidden_BTD = self.head_projection(hidden_BTD)
    return hidden_BTD

  def head(self) -> Head:
    """Returns the head that turns `before_head` states into logits."""
    tied = self.tie_embeddings
    kernel_DV = self.token_embedding.T if tied else self.head_kernel
    if self.normalize_head:
      kernel_DV /= jnp.linalg.norm(kernel_DV, axis=0, keepdims=True)
    if self.scale_logits:
      kernel_DV = kernel_DV * self.width**-0.5
    bias_V = self.head_bias_V if self.head_bias else None
    return Head(kernel_DV, bias_V, self.logit_soft_cap)

  def logits(self, hidden_BTD: jax.Array) -> jax.Array:
    """Returns float32 logits [B, T, V] of the stack's output."""
    logits_BTV = self.head()(self.before_head(hidden_BTD))
    return nn.with_logical_constraint(logits_BTV, ("batch", "length", "vocab"))


def _dense(width_in: int, width_out: int) -> Dense:
  return Dense((width_in,), (width_out,), ("embed", "mlp"), kernel_init=FanIn())
