"""Transformer: embedding, encoder, decoder and heads."""

import flax.linen as nn
import jax

from t5x_lite import checks
from t5x_lite.nn import pooling
from t5x_lite.nn.attention_rules import Full, TokenInfo
from t5x_lite.nn.caches import StackCache
from t5x_lite.nn.embedding import Embedding
from t5x_lite.nn.heads import Classifier, Head, LMHead
from t5x_lite.nn.linear import Dense
from t5x_lite.nn.stack import Stack
from t5x_lite.nn.yoco import DecoderDecoder

# More than any published model has.
MOST_UNROLLED = 1000
DTYPES = ("float32", "bfloat16", "float16")


class Transformer(nn.Module):
  """An encoder, a decoder, or both, over one embedding.

  Attributes:
    width: D.
    vocab_size: V; None until it is known from the tokenizer.
    embedding: of tokens, shared by encoder and decoder.
    lm_head: the head over the vocabulary.
    encoder: None in a decoder-only model.
    decoder: None in an encoder-only model.
    share_encoder: whether the decoder serves as the encoder too, with the same
      parameters, without cross-attention and under the rule Full (Raffel et al.
      2020, arXiv:1910.10683, section 3.2.2); `encoder` is None then.
    encoder_width: D of the encoder, if it differs from the decoder's.
    classifier: a further head, over texts or tokens, or None.
    dtype: of the activations; parameters and logits are float32.
  """

  width: checks.Count
  vocab_size: checks.Count | None = None
  embedding: Embedding = Embedding()
  lm_head: LMHead = LMHead()
  encoder: Stack | None = None
  decoder: Stack | DecoderDecoder | None = None
  share_encoder: bool = False
  encoder_width: checks.Count | None = None
  classifier: Classifier | None = None
  dtype: str = "float32"

  def __post_init__(self):
    checks.fields(self)
    checks.one_of(self, "dtype", DTYPES)
    self._check_stacks()
    if self.encoder is not None and self.decoder is not None:
      # Parts that the caller gave to both would silently share parameters.
      self.decoder = self.decoder.copy(parent=None)
    super().__post_init__()

  def _check_stacks(self):
    encoder, decoder = self.encoder, self.decoder
    if encoder is None and decoder is None:
      raise ValueError("a Transformer needs an encoder, a decoder or both")
    for stack in (
      s for side in (encoder, decoder) if side for s in side.stacks
    ):
      if stack.num_layers > MOST_UNROLLED and not stack.scan:
        raise ValueError(
          f"Stack.num_layers ({stack.num_layers}) above {MOST_UNROLLED} takes "
          "minutes to trace layer by layer: set Stack.scan=True"
        )
    if encoder and any(layer.cross_attention for layer in encoder.period):
      raise ValueError(
        "the encoder has cross_attention but nothing to attend to: set it in "
        "the decoder's scope alone"
      )
    if encoder and not decoder and encoder.pool > 1:
      raise ValueError(
        f"Stack.pool ({encoder.pool}) leaves fewer states than tokens: an "
        "encoder-only model needs pool=1"
      )
    if self.share_encoder and (encoder or not decoder):
      raise ValueError(
        "share_encoder=True uses the decoder as encoder: set a decoder, and "
        "encoder=None"
      )
    if decoder is None:
      return
    if decoder.pool > 1:
      raise ValueError(f"Stack.pool ({decoder.pool}) is for encoders alone")
    crosses = [layer.cross_attention is not None for layer in decoder.layers]
    if self.has_encoder and not all(crosses):
      raise ValueError(
        "every layer of the decoder needs cross_attention to the encoder: set "
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
    # Puts their parameters beside the stacks: "token_embedding", "head".
    nn.share_scope(self, self.embedding)
    nn.share_scope(self, self.lm_head)
    self.tables = self.embedding.tables(self.vocab_size, self.width)
    width = self.tables.token_VD.shape[1]
    for side in ("encoder", "decoder"):
      side_width = self._side_width(side)
      if side_width != width:
        dense = Dense((width,), (side_width,), ("embed", "mlp"))
        setattr(self, f"{side}_projection", dense)

  def _side_width(self, side):
    if getattr(self, side) is None:
      return self.embedding.width or self.width
    return (side == "encoder" and self.encoder_width) or self.width

  @property
  def top_width(self) -> int:
    """Returns the width of what the heads read."""
    return self._side_width("encoder" if self.decoder is None else "decoder")

  def embed(self, ids_BT: jax.Array, tokens: TokenInfo, side: str) -> jax.Array:
    """Looks up embeddings [B, T, D] of one side, in the activations' dtype."""
    x_BTD = self.embedding.look_up(self.tables, ids_BT, tokens, self.dtype)
    if x_BTD.shape[-1] != self._side_width(side):
      x_BTD = getattr(self, f"{side}_projection")(x_BTD)
    return nn.with_logical_constraint(x_BTD, ("batch", "length", "embed"))

  def encode(
    self, ids_BS: jax.Array, tokens: TokenInfo
  ) -> tuple[jax.Array, TokenInfo]:
    """Runs the encoder; returns [B, S, D] and where these tokens stand."""
    if self.share_encoder:
      x_BSD = self.embed(ids_BS, tokens, "decoder")
      return self.decoder(x_BSD, tokens, rule=Full())[0], tokens
    x_BSD = self.embed(ids_BS, tokens, "encoder")
    x_BSD = self.encoder(x_BSD, tokens)[0]
    return x_BSD, pooling.pooled_tokens(tokens, self.encoder.pool)

  def decode(
    self, ids_BT: jax.Array, tokens: TokenInfo, **source_and_cache
  ) -> tuple[jax.Array, StackCache | None]:
    """Runs the decoder; returns [B, T, D] and the cache (Stack.__call__)."""
    x_BTD = self.embed(ids_BT, tokens, "decoder")
    return self.decoder(x_BTD, tokens, **source_and_cache)

  def head(self, hidden_BTD: jax.Array) -> tuple[jax.Array, Head]:
    """Returns the states that the head reads, and the head."""
    return self.lm_head.read(hidden_BTD, self.tables.token_VD)

  def logits(self, hidden_BTD: jax.Array) -> jax.Array:
    """Returns float32 logits [B, T, V] of the stack's output."""
    states_BTD, head = self.head(hidden_BTD)
    logits_BTV = head(states_BTD)
    return nn.with_logical_constraint(logits_BTV, ("batch", "length", "vocab"))
