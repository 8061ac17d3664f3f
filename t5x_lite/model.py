"""Model: what a batch means to a Transformer.

The only place that reads batch keys. A batch is a dict of arrays [B, length]
under seqio's names (features.py draws them); `encoder_*` and `decoder_*` each
bring tokens, segment ids (0 is padding) and positions.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite.losses import CrossEntropy
from t5x_lite.nn.stack import StackCache
from t5x_lite.nn.transformer import Transformer
from t5x_lite.nn.visibility import PrefixCausal, Tokens

Batch = Mapping[str, jax.Array]
Params = dict[str, Any]


class DecodeState(NamedTuple):
  """What generation carries from token to token.

  Attributes:
    cache: of the decoder; every row writes the same slot.
    slot: int32 scalar, the next slot to write.
    index: int32 [B], where the next token of each row stands.
    source: the encoder's tokens, or None.
  """

  cache: StackCache
  slot: jax.Array
  index: jax.Array
  source: Tokens | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """A Transformer and the loss that it is trained with.

  Attributes:
    transformer: an unbound module.
    loss: how targets are scored.
  """

  transformer: Transformer
  loss: CrossEntropy = CrossEntropy()

  @property
  def architecture(self) -> str:
    """Names the family: encoder_decoder, encoder, causal or prefix."""
    encoder, decoder = self.transformer.encoder, self.transformer.decoder
    if decoder is None:
      return "encoder"
    if encoder is not None:
      return "encoder_decoder"
    return "prefix" if isinstance(decoder.rule, PrefixCausal) else "causal"

  def fit_vocabulary(self, size: int, *, multiple: int = 128) -> "Model":
    """Returns the model with a vocabulary that holds `size` ids.

    A model without vocab_size gets `size` rounded up to `multiple`, so that
    any usual number of devices divides it; one that states its own is checked.

    Raises:
      ValueError: if the stated vocabulary is smaller than the tokenizer's.
    """
    stated = self.transformer.vocab_size
    if stated is None:
      padded = -(-size // multiple) * multiple
      transformer = self.transformer.clone(vocab_size=padded)
      return dataclasses.replace(self, transformer=transformer)
    if stated < size:
      raise ValueError(
        f"the tokenizer has {size} ids but the model's vocab_size is {stated}: "
        "use a tokenizer that fits or raise Transformer.vocab_size"
      )
    return self

  def init(self, key: jax.Array) -> Params:
    """Draws initial parameters, a plain nested dict of float32 arrays."""
    return nn.unbox(self._init(key))

  def abstract(self) -> Params:
    """Returns the parameters' shapes and dtypes without computing them."""
    return nn.unbox(jax.eval_shape(self._init, jax.random.key(0)))

  def logical_axes(self) -> Params:
    """Returns a tuple of logical axis names per parameter."""
    return jax.tree.map(
      lambda boxed: boxed.names,
      jax.eval_shape(self._init, jax.random.key(0)),
      is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata),
    )

  def _init(self, key):
    ids = jnp.zeros((1, 1), jnp.int32)
    batch = {"encoder_input_tokens": ids, "decoder_input_tokens": ids}

    def forward(transformer):
      return _hidden(transformer, batch)

    return nn.init(forward, self.transformer)(key)["params"]

  def loss_and_metrics(
    self, params: Params, batch: Batch, *, dropout_key: jax.Array | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Scores a batch; see losses.CrossEntropy for the sums in the metrics.

    Args:
      params: as from `init`.
      batch: with targets and loss weights.
      dropout_key: switches dropout on.

    Returns:
      The objective, a sum yet to be divided by metrics["denominator"], and
      the metrics, all sums over the batch.
    """
    side = self._scored_side

    def forward(transformer):
      return _hidden(transformer, batch), transformer.head_kernel()

    hidden_BTD, kernel_DV = self._apply(forward, params, dropout_key)
    sums = self.loss(
      hidden_BTD,
      kernel_DV,
      batch[f"{side}_target_tokens"],
      batch[f"{side}_loss_weights"],
    )
    return sums["objective"], sums

  def denominator(self, batch: Batch) -> jax.Array:
    """Returns what divides a batch's objective, known from its weights."""
    return self.loss.denominator(batch[f"{self._scored_side}_loss_weights"])

  @property
  def _scored_side(self) -> str:
    return "encoder" if self.architecture == "encoder" else "decoder"

  def logits(self, params: Params, batch: Batch) -> jax.Array:
    """Returns float32 logits [B, T, V]."""

    def forward(transformer):
      return transformer.logits(_hidden(transformer, batch))

    return self._apply(forward, params)

  def score(self, params: Params, batch: Batch) -> jax.Array:
    """Returns each row's log-likelihood of its weighted targets, float32 [B].

    The sum over the row of weight * log p(target), in nats.
    """

    def row(row_batch):
      one = jax.tree.map(lambda x: x[None], row_batch)
      plain = dataclasses.replace(self, loss=CrossEntropy())
      return -plain.loss_and_metrics(params, one)[0]

    return jax.vmap(row)(dict(batch))

  def prefill(
    self, params: Params, batch: Batch, *, max_new_tokens: int
  ) -> tuple[jax.Array, DecodeState]:
    """Reads the inputs and fills a cache with room for the new tokens.

    The inputs are the encoder's tokens or, in a decoder-only model, the tokens
    that `decoder_causal_attention` marks: start token and prompt. Rows are not
    packed, and prompts may differ in length.

    Returns:
      float32 logits [B, V] of the first new token, and the state.
    """
    if self.transformer.decoder is None:
      raise ValueError("an encoder-only model does not generate")

    def forward(transformer):
      if transformer.encoder is not None:
        return _prefill_decoder_of_encoder(transformer, batch, max_new_tokens)
      return _prefill_decoder_only(transformer, batch, max_new_tokens)

    return self._apply(forward, params)

  def decode_step(
    self, params: Params, state: DecodeState, tokens_B: jax.Array
  ) -> tuple[jax.Array, DecodeState]:
    """Appends one token per row; returns logits [B, V] of the next."""

    def forward(transformer):
      return _step(transformer, state, tokens_B, source_BSD=None)

    return self._apply(forward, params)

  def _apply(self, forward, params, dropout_key=None):
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    return nn.apply(forward, self.transformer)({"params": params}, rngs=rngs)


def _tokens(batch: Batch, side: str) -> Tokens:
  """Says where one side's tokens stand; unpacked rows need only their ids."""
  ids = batch[f"{side}_input_tokens"]
  index = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
  # Without segment ids, zeros of an encoder are padding; a decoder's first
  # token is a zero, and its padding bears no loss and is seen by no one.
  segment = (ids != 0) if side == "encoder" else jnp.ones_like(ids)
  return Tokens(
    index=index,
    position=batch.get(f"{side}_positions", index),
    segment=batch.get(f"{side}_segment_ids", segment.astype(jnp.int32)),
    prefix=batch.get(f"{side}_causal_attention", jnp.zeros_like(ids)) > 0,
  )


def _hidden(transformer: Transformer, batch: Batch) -> jax.Array:
  """Returns what the head reads, [B, T, D]."""
  source = {}
  if transformer.encoder is not None:
    tokens = _tokens(batch, "encoder")
    encoded_BSD = transformer.encode(batch["encoder_input_tokens"], tokens)
    if transformer.decoder is None:
      return encoded_BSD
    source = {"source_BSD": encoded_BSD, "source_tokens": tokens}
  ids, tokens = batch["decoder_input_tokens"], _tokens(batch, "decoder")
  return transformer.decode(ids, tokens, **source)[0]


def _prefill_decoder_of_encoder(transformer, batch, max_new_tokens):
  ids = batch["encoder_input_tokens"]
  source = _tokens(batch, "encoder")
  encoded_BSD = transformer.encode(ids, source)
  cache = transformer.decoder.empty_cache(
    ids.shape[0], max_new_tokens, source_length=ids.shape[1],
    dtype=transformer.dtype,
  )  # fmt: skip
  start_B = jnp.zeros(ids.shape[0], jnp.int32)
  state = DecodeState(cache, jnp.int32(0), start_B, source)
  return _step(transformer, state, start_B, source_BSD=encoded_BSD)


def _prefill_decoder_only(transformer, batch, max_new_tokens):
  ids = batch["decoder_input_tokens"]
  rows, length = ids.shape
  tokens = _tokens(batch, "decoder")
  tokens = tokens._replace(segment=tokens.prefix.astype(jnp.int32))
  prompt_length_B = jnp.sum(tokens.segment, axis=1)
  cache = transformer.decoder.empty_cache(
    rows, length + max_new_tokens, dtype=transformer.dtype
  )
  slot = jnp.int32(0)
  hidden_BTD, cache = transformer.decode(ids, tokens, cache=cache, slot=slot)
  last_B1D = jnp.take_along_axis(
    hidden_BTD, (prompt_length_B - 1)[:, None, None], axis=1
  )
  state = DecodeState(cache, jnp.int32(length), prompt_length_B, None)
  return transformer.logits(last_B1D)[:, 0], state


def _step(transformer, state, tokens_B, *, source_BSD):
  index_B1 = state.index[:, None]
  ones_B1 = jnp.ones_like(index_B1)
  hidden_B1D, cache = transformer.decode(
    tokens_B[:, None],
    Tokens(index_B1, index_B1, ones_B1, jnp.zeros_like(ones_B1, bool)),
    source_BSD=source_BSD,
    source_tokens=state.source,
    cache=state.cache,
    slot=state.slot,
  )
  new_state = DecodeState(
    cache, state.slot + 1, state.index + 1, state.source
  )  # fmt: skip
  return transformer.logits(hidden_B1D)[:, 0], new_state
