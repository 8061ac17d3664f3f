"""Model: what a batch means to a Transformer.

row_formats.py has the keys of a batch, and data/feature_converters.py draws it.
Some models read more: features of tokens (`TokenInfo.features`), and
`class_targets`, [B] or [B, T], -1 for none.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite import checks, losses, row_formats
from t5x_lite.losses import CrossEntropy, Loss, Term, Terms
from t5x_lite.nn import attention_rules, decode_steps
from t5x_lite.nn.attention_rules import TokenInfo
from t5x_lite.nn.caches import PLAIN_CACHE, Caching
from t5x_lite.nn.decode_state import DecodeState
from t5x_lite.nn.heads import Head
from t5x_lite.nn.transformer import Transformer
from t5x_lite.row_formats import RowFormat, token_info

Batch = Mapping[str, jax.Array]
Params = dict[str, Any]


class Outputs(NamedTuple):
  """What a loss reads of a forward pass.

  Attributes:
    states_BTD: what the head reads, of the side that is scored.
    head: states to logits over the vocabulary.
    tokens: where the tokens of that side stand.
    class_logits: [B, classes] or [B, T, classes]; None without class targets.
    auxiliary: terms of the modules' own: "moe_loss", one entry per MoE layer.
  """

  states_BTD: jax.Array
  head: Head
  tokens: TokenInfo
  class_logits: jax.Array | None
  auxiliary: dict[str, Term]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """A Transformer and the loss that it is trained with.

  Attributes:
    transformer: an unbound module.
    loss: what is minimised (losses/terms.py).
    param_dtype: of the parameters that are kept between steps: "float32", from
      which a step in bfloat16 makes copies (master weights); or "bfloat16", for
      half the bytes, without master weights: updates are rounded at random
      (optim/stochastic_rounding.py).
  """

  transformer: Transformer
  loss: Loss = CrossEntropy()
  param_dtype: Literal["float32", "bfloat16"] = "float32"

  def __post_init__(self):
    checks.fields(self)

  @property
  def row_format(self) -> RowFormat:
    """Returns how the rows of the model's batches are laid out."""
    decoder = self.transformer.decoder
    if decoder is None:
      return row_formats.ENCODER
    if self.transformer.has_encoder:
      return row_formats.ENCODER_DECODER
    is_prefix = attention_rules.reads_prefix(decoder.rule)
    return row_formats.PREFIX if is_prefix else row_formats.CAUSAL

  def abstract_batch(self, rows: int, row_lengths: Mapping[str, int]) -> Batch:
    """Returns the shapes of a batch whose sides are `row_lengths` long."""
    batch = self.row_format.abstract_batch(rows, row_lengths)
    ids = batch[f"{self.row_format.scored_side}_input_tokens"]
    batch |= dict.fromkeys(self._token_features(), ids)
    if self.loss.reads_classes:
      of_tokens = _classifier(self.transformer).pool is None
      shape = ids.shape if of_tokens else ids.shape[:1]
      batch["class_targets"] = jax.ShapeDtypeStruct(shape, ids.dtype)
    return batch

  def _token_features(self) -> list[str]:
    """Lists the keys of the features of tokens that the positions read."""
    return [
      f"{side}_{name}"
      for side in self.row_format.sides
      if (stack := getattr(self.transformer, side)) is not None
      for name in stack.position.token_features
    ]

  @property
  def reads_packed_rows(self) -> bool:
    """Tells whether documents that share a row stay apart."""
    encoder = self.transformer.encoder
    return encoder is None or encoder.pool == 1

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
    """Draws initial parameters, a plain nested dict of arrays."""
    return jax.tree.map(
      lambda x: x.astype(self.param_dtype), nn.unbox(self._init(key))
    )

  def abstract(self) -> Params:
    """Returns the parameters' shapes and dtypes without computing them."""
    dtype = jnp.dtype(self.param_dtype)
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, dtype), nn.unbox(_shapes(self))
    )

  def logical_axes(self) -> Params:
    """Returns a tuple of logical axis names per parameter."""
    return jax.tree.map(
      lambda boxed: boxed.names,
      _shapes(self),
      is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata),
    )

  def _init(self, key):
    ids = jnp.zeros((1, 1), jnp.int32)
    keys = [f"{side}_input_tokens" for side in self.row_format.sides]
    batch = dict.fromkeys([*keys, *self._token_features()], ids)

    def forward(transformer):
      hidden_BTD, tokens = _hidden(transformer, batch)
      if transformer.classifier is not None:
        transformer.classifier(hidden_BTD, tokens)
      return transformer.head(hidden_BTD)

    return nn.init(forward, self.transformer)(key)["params"]

  def terms(
    self, params: Params, batch: Batch, *, key: jax.Array | None = None
  ) -> Terms:
    """Returns the terms of the model's loss on a batch.

    Args:
      params: as from `init`.
      batch: with targets and loss weights.
      key: says that this is training: switches dropout on, and experts have
        room for some tokens only (moe.py).
    """
    return self.loss(self, params, batch, key=key)

  def objective(
    self, params: Params, batch: Batch, *, key: jax.Array | None = None
  ) -> jax.Array:
    """Returns what training minimises on a batch, a float32 scalar."""
    return losses.objective(self.loss, self.terms(params, batch, key=key))

  def outputs(
    self, params: Params, batch: Batch, *, key: jax.Array | None = None
  ) -> Outputs:
    """Runs the model up to its heads, as a loss reads it."""

    def forward(transformer):
      hidden_BTD, tokens = _hidden(transformer, batch)
      states_BTD, head = transformer.head(hidden_BTD)
      classes = None
      if "class_targets" in batch:
        classes = _classifier(transformer)(hidden_BTD, tokens)
      return states_BTD, head, tokens, classes

    found, sown = self._apply(forward, params, key, collect=("losses",))
    return Outputs(*found, auxiliary=losses.sown_terms(sown.get("losses", {})))

  def logits(self, params: Params, batch: Batch) -> jax.Array:
    """Returns float32 logits [B, T, V]."""

    def forward(transformer):
      return transformer.logits(_hidden(transformer, batch)[0])

    return self._apply(forward, params)[0]

  def probe(self, params: Params, batch: Batch) -> dict[str, Any]:
    """Returns what the modules sow of their insides; see probe.py."""

    def forward(transformer):
      return _hidden(transformer, batch)

    return self._apply(forward, params, collect=("probes",))[1]["probes"]

  def class_logits(self, params: Params, batch: Batch) -> jax.Array:
    """Returns the classifier's float32 logits, [B, classes] or [B, T, classes].

    Raises:
      ValueError: the model has no classifier.
    """

    def forward(transformer):
      return _classifier(transformer)(*_hidden(transformer, batch))

    return self._apply(forward, params)[0]

  def score(self, params: Params, batch: Batch) -> jax.Array:
    """Returns each row's log-likelihood of its weighted targets, float32 [B].

    The sum of weight * log p(target), in nats; p is a softmax over all ids,
    those that only round the vocabulary up too.
    """
    return -self.row_terms(params, batch)["loss"].sum

  def row_terms(self, params: Params, batch: Batch) -> Terms:
    """Returns the terms of plain cross-entropy of each row, [B] each."""
    side = self.row_format.scored_side

    def forward(transformer):
      hidden_BTD, _ = _hidden(transformer, batch)
      return transformer.head(hidden_BTD)

    states_BTD, head = self._apply(forward, params)[0]

    def row(*of_row):
      states_BTD, targets_BT, weights_BT = (x[None] for x in of_row)
      return CrossEntropy().of_tokens(states_BTD, head, targets_BT, weights_BT)

    scored = (batch[f"{side}_{n}"] for n in ("target_tokens", "loss_weights"))
    return jax.vmap(row)(states_BTD, *scored)

  def prefill(
    self,
    params: Params,
    batch: Batch,
    *,
    max_new_tokens: int,
    caching: Caching = PLAIN_CACHE,
    with_states: bool = False,
  ) -> tuple[jax.Array, ...]:
    """Reads the inputs and fills a cache with room for the new tokens.

    The inputs are the encoder's tokens or, in a decoder-only model, the tokens
    that `decoder_causal_attention` marks: start token and prompt. Rows are not
    packed; prompts may differ in length, padded on the right or on the left.
    Without `decoder_positions`, positions count a row's marked tokens. The
    decoder of an encoder starts from the first of its input tokens, or from 0.

    Args:
      params: as from `init`.
      batch: the inputs.
      max_new_tokens: slots of the cache beside those of the prompts.
      caching: how the cache is kept, and long prompts are read.
      with_states: whether to return hidden states too.

    Returns:
      float32 logits [B, V] of the first new token, and the decoding state; with
      `with_states` also what the stack gives for the decoder's tokens, [B, T,
      D], T = 1 with an encoder.

    Raises:
      ValueError: an encoder alone; or chunks of a prompt that is read as a
        whole (prefix-LM).
    """
    if self.transformer.decoder is None:
      raise ValueError("an encoder-only model does not generate")
    room = {"max_new_tokens": max_new_tokens, "caching": caching}
    run = self._bound(params)
    if self.transformer.has_encoder:
      encoded_BSD, source = run(lambda bound: _encoded(bound, batch))
      start_B = jnp.zeros(encoded_BSD.shape[0], jnp.int32)
      if "decoder_input_tokens" in batch:
        start_B = batch["decoder_input_tokens"][:, 0]
      found = decode_steps.prefill_decoder_of_encoder(
        self.transformer, run, encoded_BSD, source, start_B, **room
      )
      return found[: 3 if with_states else 2]
    tokens = token_info(batch, "decoder")
    if "decoder_positions" not in batch:
      counted = jnp.cumsum(tokens.prefix, axis=1, dtype=jnp.int32) - 1
      tokens = tokens._replace(position=jnp.maximum(counted, 0))
    found = decode_steps.prefill_decoder_only(
      self.transformer, run, batch["decoder_input_tokens"], tokens, **room
    )
    return found[: 3 if with_states else 2]

  def decode_step(
    self,
    params: Params,
    state: DecodeState,
    tokens_B: jax.Array,
    *,
    with_states: bool = False,
  ) -> tuple[jax.Array, ...]:
    """Appends one token per row; returns as `prefill` does, for the next."""
    logits_B1V, *others = decode_steps.step(
      self.transformer, self._bound(params), state, tokens_B[:, None]
    )
    return logits_B1V[:, 0], *others[: 2 if with_states else 1]

  def decode_tokens(
    self,
    params: Params,
    state: DecodeState,
    tokens_BT: jax.Array,
    *,
    lengths_B: jax.Array | None = None,
  ) -> tuple[jax.Array, DecodeState]:
    """Appends several tokens per row.

    The cache needs T free slots even in rows that append fewer.

    Args:
      params: as from `init`.
      state: as from `prefill`.
      tokens_BT: the tokens.
      lengths_B: how many of its T tokens each row appends, int32 in [0, T]; the
        others are padding. None: all T, and rows stay in step.

    Returns:
      float32 logits [B, T, V] of the token after each, and the state.
    """
    return decode_steps.step(
      self.transformer, self._bound(params), state, tokens_BT,
      lengths_B=lengths_B,
    )[:2]  # fmt: skip

  def roll_back(self, state: DecodeState, count_B: jax.Array) -> DecodeState:
    """Returns the state before the last `count_B` tokens of each row.

    Only tokens that were appended since the prefill can be taken back.
    """
    return decode_steps.roll_back(self.transformer, state, count_B)

  def _bound(self, params):
    """Returns a function that calls another with the bound Transformer."""
    return lambda forward: self._apply(forward, params)[0]

  def _apply(self, forward, params, key=None, collect=()):
    """Returns what `forward` gives, and what the modules sow in `collect`."""
    rngs = {} if key is None else {"dropout": key}
    # Modules read float32, whatever `param_dtype` is.
    params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    apply = nn.apply(forward, self.transformer, mutable=list(collect))
    return apply({"params": params}, rngs=rngs)


@functools.lru_cache(maxsize=32)
def _shapes(model: Model) -> Params:
  """Returns the shapes and axes of parameters; tracing takes a second."""
  return jax.eval_shape(model._init, jax.random.key(0))


def _classifier(transformer: Transformer):
  if transformer.classifier is None:
    raise ValueError(
      "the model has no classifier: set Transformer.classifier, or take a loss "
      "and a task without classes"
    )
  return transformer.classifier


def _encoded(transformer, batch) -> tuple[jax.Array, TokenInfo]:
  return transformer.encode(
    batch["encoder_input_tokens"], token_info(batch, "encoder")
  )


def _hidden(transformer, batch) -> tuple[jax.Array, TokenInfo]:
  """Returns the last stack's output, [B, T, D], and where its tokens stand."""
  source = {}
  if transformer.has_encoder:
    encoded_BSD, tokens = _encoded(transformer, batch)
    if transformer.decoder is None:
      return encoded_BSD, tokens
    source = {"source_BSD": encoded_BSD, "source_tokens": tokens}
  ids, tokens = batch["decoder_input_tokens"], token_info(batch, "decoder")
  return transformer.decode(ids, tokens, **source)[0], tokens
