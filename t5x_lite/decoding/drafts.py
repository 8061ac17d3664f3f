"""Where the draft tokens of assisted decoding come from."""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.decoding.choices import Choices
from t5x_lite.decoding.samplers import Greedy
from t5x_lite.decoding.texts import write_at
from t5x_lite.model import Batch, Params

_DRAW = 1  # The use of a key (Choices.keys).


class StepsBack(Protocol):
  """A model whose rows append and take back tokens, as `Model` does."""

  def prefill(
    self, params: Params, batch: Batch, *, max_new_tokens: int
  ) -> tuple[jax.Array, Any]:
    """Reads the prompts; returns logits [B, V] and the decoding state."""

  def decode_tokens(
    self, params: Params, state: Any, tokens_BT: jax.Array, *, lengths_B
  ) -> tuple[jax.Array, Any]:
    """Appends tokens; returns logits [B, T, V] of the token after each."""

  def roll_back(self, state: Any, count_B: jax.Array) -> Any:
    """Returns the state before the last tokens of each row."""


class Proposal(NamedTuple):
  """Draft tokens.

  Attributes:
    tokens_BK: K tokens of each row.
    probs_BKV: the float32 probabilities that they were drawn with; None if
      each was certain.
  """

  tokens_BK: jax.Array
  probs_BKV: jax.Array | None


class Draft(Protocol):
  """Proposes the next tokens of each row; frozen and hashable.

  Attributes:
    num_tokens: K, how many it proposes a round.
  """

  num_tokens: int

  def start(
    self, params: Params, batch: Batch, first_B: jax.Array, max_new_tokens: int
  ) -> Any:
    """Reads the prompts and the first new token; returns a state."""

  def propose(
    self,
    params: Params,
    state: Any,
    texts_BN: jax.Array,
    step_B: jax.Array,
    left_B: jax.Array,
    choices: Choices,
  ) -> tuple[Proposal, Any]:
    """Proposes the tokens after those that were generated.

    Args:
      params: the draft's, or None.
      state: as from `start` or `accept`.
      texts_BN: the tokens generated so far, and room for K more.
      step_B: how many they are.
      left_B: how many more are of use; 0 in a row that has ended.
      choices: what may come.
    """

  def accept(self, state: Any, proposal, accepted_B, next_B) -> Any:
    """Goes on after the accepted tokens and the target's own next one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DraftModel:
  """Proposes the tokens of a smaller model of the same vocabulary.

  Attributes:
    model: the smaller model.
    num_tokens: K, how many tokens it proposes a round.
  """

  model: StepsBack
  num_tokens: checks.Count = 5

  def __post_init__(self):
    checks.fields(self)

  def start(self, params, batch, first_B, max_new_tokens):
    # Of one round, the slots beyond the last token are written too.
    _, decoding = self.model.prefill(
      params, batch, max_new_tokens=max_new_tokens + self.num_tokens
    )
    one_B = jnp.ones_like(first_B)
    decoding = self.model.roll_back(decoding, 0 * one_B)  # Of a row each.
    unread_B2 = jnp.stack([first_B, 0 * first_B], axis=1)
    return _ModelState(decoding, unread_B2, one_B, 0 * one_B)

  def propose(self, params, state, texts_BN, step_B, left_B, choices):
    is_greedy = isinstance(choices.sampler, Greedy)

    def choose(logits_BV, texts_BN, step_B):
      if logits_BV.shape[-1] != choices.vocab_size:
        raise ValueError(
          f"the draft model has {logits_BV.shape[-1]} ids, the model "
          f"{choices.vocab_size}: use a draft model of the same vocabulary"
        )
      logits_B1V = logits_BV[:, None]
      allowed_B1V = choices.allow(logits_B1V, texts_BN, step_B[:, None])
      token_B = choices.draw(allowed_B1V[:, 0], step_B, _DRAW)
      texts_BN = write_at(texts_BN, token_B[:, None], step_B, 1)
      if is_greedy:
        return texts_BN, (token_B, None)
      probs_BV = choices.sampler.probabilities(allowed_B1V[:, 0])
      return texts_BN, (token_B, probs_BV)

    unread_B = jnp.where(left_B > 0, state.num_unread_B, 0)
    logits_B2V, decoding = self.model.decode_tokens(
      params, state.decoding, state.unread_B2, lengths_B=unread_B
    )
    newest_B = jnp.maximum(unread_B - 1, 0)[:, None, None]
    logits_BV = jnp.take_along_axis(logits_B2V, newest_B, axis=1)[:, 0]
    texts_BN, first = choose(logits_BV, texts_BN, step_B)

    def body(carry, i):
      decoding, texts_BN, token_B = carry
      # What follows the last token of use need not be read.
      reads_B = (i < left_B).astype(jnp.int32)
      logits_B1V, decoding = self.model.decode_tokens(
        params, decoding, token_B[:, None], lengths_B=reads_B
      )
      texts_BN, chosen = choose(logits_B1V[:, 0], texts_BN, step_B + i)
      return (decoding, texts_BN, chosen[0]), chosen

    carry = decoding, texts_BN, first[0]
    (decoding, *_), others = jax.lax.scan(
      body, carry, jnp.arange(1, self.num_tokens)
    )
    proposal = jax.tree.map(
      lambda x, xs: jnp.moveaxis(jnp.concatenate([x[None], xs]), 0, 1),
      first, others,
    )  # fmt: skip
    read_B = jnp.clip(left_B - 1, 0, self.num_tokens - 1)
    state = _ModelState(decoding, state.unread_B2, unread_B, read_B)
    return Proposal(*proposal), state

  def accept(self, state, proposal, accepted_B, next_B):
    read_B = state.num_read_B
    decoding = self.model.roll_back(
      state.decoding, jnp.maximum(read_B - accepted_B, 0)
    )
    # Of a round accepted as a whole, the last token was not read.
    all_B = accepted_B > read_B
    last_B = proposal.tokens_BK[:, -1]
    unread_B2 = jnp.stack([jnp.where(all_B, last_B, next_B), next_B], axis=1)
    return _ModelState(decoding, unread_B2, 1 + all_B, read_B)


class _ModelState(NamedTuple):
  """The draft model's decoding state.

  Attributes:
    decoding: of the tokens that were read.
    unread_B2: the newest tokens, not read yet, the first num_unread_B of them.
    num_unread_B: 1 or 2.
    num_read_B: how many of its own last proposal the model read.
  """

  decoding: Any
  unread_B2: jax.Array
  num_unread_B: jax.Array
  num_read_B: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptLookup:
  """Proposes what followed the last tokens where they stood before.

  The longest n-gram that ends the text is looked up in the text itself: the
  prompt, or an encoder's inputs, and what was generated. Of several places the
  first counts (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding).

  Attributes:
    ngram: the longest n-gram that is looked up.
    num_tokens: K, how many tokens are proposed a round.
  """

  ngram: checks.Count = 3
  num_tokens: checks.Count = 10

  def __post_init__(self):
    checks.fields(self)

  def start(self, params, batch, first_B, max_new_tokens):
    del params
    if "encoder_input_tokens" in batch:
      ids_BS = batch["encoder_input_tokens"]
      real_BS = batch.get("encoder_segment_ids", ids_BS) != 0
    else:
      ids_BS = batch["decoder_input_tokens"]
      real_BS = batch["decoder_causal_attention"] > 0
    # Without gaps, whichever side the padding is on.
    order_BS = jnp.argsort(~real_BS, axis=1, stable=True)
    ids_BS = jnp.take_along_axis(jnp.asarray(ids_BS), order_BS, axis=1)
    room = max_new_tokens + self.num_tokens + 1
    text = _Text(jnp.pad(ids_BS, [(0, 0), (0, room)]), jnp.sum(real_BS, axis=1))
    return text.append(first_B[:, None], jnp.ones_like(first_B))

  def propose(self, params, state, texts_BN, step_B, left_B, choices):
    del params, texts_BN, step_B, left_B, choices
    start_B = state.continuation(self.ngram)
    places_BK = start_B[:, None] + jnp.arange(self.num_tokens)
    tokens_BK = jnp.take_along_axis(state.ids_BL, places_BK, 1, mode="clip")
    # Beyond the text the places are 0, as likely wrong as any token.
    return Proposal(tokens_BK, None), state

  def accept(self, state, proposal, accepted_B, next_B):
    columns_K = jnp.arange(self.num_tokens + 1)
    tokens_BK = jnp.pad(proposal.tokens_BK, [(0, 0), (0, 1)])
    is_next_BK = columns_K == accepted_B[:, None]
    tokens_BK = jnp.where(is_next_BK, next_B[:, None], tokens_BK)
    return state.append(tokens_BK, accepted_B + 1)


class _Text(NamedTuple):
  """The tokens of each row so far: `length_B` of `ids_BL`, then zeros."""

  ids_BL: jax.Array
  length_B: jax.Array

  def append(self, tokens_BT, count_B) -> "_Text":
    """Appends the first `count_B` of the tokens."""
    ids_BL = write_at(self.ids_BL, tokens_BT, self.length_B, count_B)
    return _Text(ids_BL, self.length_B + count_B)

  def continuation(self, ngram: int) -> jax.Array:
    """Returns where the text went on after the n-gram that ends it, [B]."""
    rows, columns = self.ids_BL.shape
    match_BL = jnp.zeros((rows, columns), jnp.int32)
    going_BL = jnp.arange(columns) < self.length_B[:, None]
    for i in range(1, ngram + 1):
      end_B1 = jnp.maximum(self.length_B - i, 0)[:, None]
      end_B1 = jnp.take_along_axis(self.ids_BL, end_B1, axis=1)
      before_BL = jnp.pad(self.ids_BL, [(0, 0), (i, 0)], constant_values=-1)[
        :, :columns
      ]
      going_BL &= before_BL == end_B1
      match_BL += going_BL
    found_B = jnp.argmax(match_BL, axis=1)
    return jnp.where(jnp.any(match_BL > 0, axis=1), found_B, self.length_B)
