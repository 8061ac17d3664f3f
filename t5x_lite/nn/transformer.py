"""Transformer: embedding, encoder, decoder and language-model head."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite.nn import checks
from t5x_lite.nn.stack import Stack, StackCache
from t5x_lite.nn.visibility import Tokens

DTYPES = ("float32", "bfloat16", "float16")


class Transformer(nn.Module):
  """Holds an encoder, a decoder, or both, over one embedding.

  Attributes:
    width: D.
    vocab_size: V; None until it is known from the tokenizer.
    encoder: or None: a decoder-only model.
    decoder: or None: an encoder-only model.
    tie_embeddings: whether the head is the transpose of the embedding.
    embedding_stddev: of the embedding's initial values.
    scale_logits: whether logits are multiplied by 1/sqrt(D), which T5 1.0 and
      PaLM do because their head is the embedding.
    dtype: of the activations; parameters and logits are float32.
  """

  width: int
  vocab_size: int | None = None
  encoder: Stack | None = None
  decoder: Stack | None = None
  tie_embeddings: bool = False
  embedding_stddev: float = 1.0
  scale_logits: bool = False
  dtype: str = "float32"

  def __post_init__(self):
    checks.at_least_one(self, "width", "vocab_size")
    if self.dtype not in DTYPES:
      raise ValueError(
        f"unknown dtype {self.dtype!r}: use one of {', '.join(DTYPES)}"
      )
    if self.encoder is None and self.decoder is None:
      raise ValueError("a Transformer needs an encoder, a decoder or both")
    if self.encoder and self.encoder.layer.cross_attention:
      raise ValueError(
        "the encoder has cross_attention but nothing to see by it: set it in "
        "the decoder's scope alone"
      )
    if self.encoder is None and self.decoder.layer.cross_attention:
      raise ValueError(
        "the decoder has cross_attention but there is no encoder: set "
        "Transformer.encoder, or Layer.cross_attention = None"
      )
    if self.encoder is not None and self.decoder is not None:
      if self.decoder.layer.cross_attention is None:
        raise ValueError(
          "the decoder has no cross_attention to see the encoder by: set "
          "Layer.cross_attention in the decoder's scope"
        )
      # Parts that the caller gave to both would silently share parameters.
      self.decoder = self.decoder.copy(parent=None)
    super().__post_init__()

  def setup(self):
    if self.vocab_size is None:
      raise ValueError(
        "vocab_size is not set: it comes from a run's tokenizer, or from "
        "--gin.transformer.Transformer.vocab_size=..."
      )
    self.token_embedding = self.param(
      "token_embedding",
      nn.with_logical_partitioning(
        nn.initializers.normal(self.embedding_stddev), ("vocab", "embed")
      ),
      (self.vocab_size, self.width),
      jnp.float32,
    )
    if not self.tie_embeddings:
      self.head = self.param(
        "head",
        nn.with_logical_partitioning(
          nn.initializers.normal(self.width**-0.5), ("embed", "vocab")
        ),
        (self.width, self.vocab_size),
        jnp.float32,
      )

  def embed(self, ids_BT: jax.Array) -> jax.Array:
    """Looks up embeddings [B, T, D] in the activations' dtype."""
    x_BTD = jnp.take(self.token_embedding, ids_BT, axis=0).astype(self.dtype)
    return nn.with_logical_constraint(x_BTD, ("batch", "length", "embed"))

  def encode(self, ids_BS: jax.Array, tokens: Tokens) -> jax.Array:
    """Runs the encoder; returns [B, S, D]."""
    return self.encoder(self.embed(ids_BS), tokens)[0]

  def decode(
    self, ids_BT: jax.Array, tokens: Tokens, **source_and_cache
  ) -> tuple[jax.Array, StackCache | None]:
    """Runs the decoder; returns [B, T, D] and the cache (Stack.__call__)."""
    return self.decoder(self.embed(ids_BT), tokens, **source_and_cache)

  def head_kernel(self) -> jax.Array:
    """Returns what turns hidden states into logits, float32 [D, V]."""
    kernel_DV = self.token_embedding.T if self.tie_embeddings else self.head
    return kernel_DV * self.width**-0.5 if self.scale_logits else kernel_DV

  def logits(self, hidden_BTD: jax.Array) -> jax.Array:
    """Returns float32 logits [B, T, V]."""
    kernel_DV = self.head_kernel().astype(hidden_BTD.dtype)
    logits_BTV = jnp.einsum(
      "BTD,DV->BTV", hidden_BTD, kernel_DV,
      preferred_element_type=jnp.float32,
    )  # fmt: skip
    return nn.with_logical_constraint(logits_BTV, ("batch", "length", "vocab"))
