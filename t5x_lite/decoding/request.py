"""Request and Generated: what a strategy is asked for, and what it returns."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.decoding.constraints import Constraints
from t5x_lite.decoding.stops import Stops
from t5x_lite.decoding.texts import Texts
from t5x_lite.model import Batch, Params
from t5x_lite.nn.caches import Caching


class Predictor(Protocol):
  """A model that predicts the next token, such as `Model`; hashable.

  Its state has `take_rows` and `slot`, as `DecodeState` has, for strategies
  that go on with several texts per row. For `Contrastive`, both methods also
  take `with_states=True`, and return hidden states as a third result.
  """

  def prefill(
    self, params: Params, batch: Batch, *, max_new_tokens: int
  ) -> tuple[jax.Array, Any]:
    """Reads the prompts; returns logits [B, V] and the decoding state."""

  def decode_step(
    self, params: Params, state: Any, tokens_B: jax.Array
  ) -> tuple[jax.Array, Any]:
    """Appends one token per row; returns logits [B, V] of the next."""


class Acceptance(NamedTuple):
  """Holds how many draft tokens of `Assisted` were accepted, int32 [B] each.

  rounds: the model's steps after the prompt, in which a row took part.
  proposed: draft tokens of these that could be of use.
  accepted: draft tokens that are part of the text.
  """

  rounds: jax.Array
  proposed: jax.Array
  accepted: jax.Array


class Generated(NamedTuple):
  """Holds the result of `generate`.

  A strategy with `num_return_sequences=N` gives every array a dim N after B,
  the best first; a sequence that was not found has length 0 and score -inf.

  tokens: int32 [B, max_new_tokens]; 0 after a row's end.
  lengths: int32 [B], the number of tokens, EOS included; 0 for padding rows.
  log_probs: float32 [B, max_new_tokens], the model's log probability of each
    token, in nats, over all ids and before constraints, temperature, top_k and
    top_p; 0 after a row's end.
  scores: float32 [B], what the strategy ranks by: `Beam` has its own, of other
    strategies it is the sum of log_probs.
  acceptance: of `Assisted`; None of other strategies.
  """

  tokens: jax.Array
  lengths: jax.Array
  log_probs: jax.Array
  scores: jax.Array
  acceptance: Acceptance | None = None

  def arrays(self) -> dict[str, jax.Array]:
    """Returns what every strategy gives, by name."""
    return {
      "tokens": self.tokens, "lengths": self.lengths,
      "log_probs": self.log_probs, "scores": self.scores,
    }  # fmt: skip

  @classmethod
  def empty(cls, rows: int, max_new_tokens: int) -> "Generated":
    """Returns rows of which nothing is generated yet."""
    return cls(
      tokens=jnp.zeros((rows, max_new_tokens), jnp.int32),
      lengths=jnp.zeros(rows, jnp.int32),
      log_probs=jnp.zeros((rows, max_new_tokens), jnp.float32),
      scores=jnp.zeros(rows, jnp.float32),
    )


class Request(NamedTuple):
  """What a strategy needs to continue a batch; it exists inside jit alone.

  Attributes:
    model, params, batch: as `generate` takes them.
    row_keys_B: a random key per row.
    is_padding_B: marks rows that are to stay empty.
    max_new_tokens: the T of the results.
    prompts: the tokens before the generated ones.
    limit_B: the maximum number of new tokens.
    end_ids: int32 [E], the ids that end a text.
    drawable: bool [ids], or None for all of the model's.
    constraints: which tokens may come.
    caching: how keys and values are kept, or None for the model's own way.
    draft_params: of a draft model, or None.
    stops: strings that end a text, or None.
  """

  model: Predictor
  params: Params
  batch: Batch
  row_keys_B: jax.Array
  is_padding_B: jax.Array
  max_new_tokens: int
  prompts: Texts
  limit_B: jax.Array
  end_ids: jax.Array
  drawable: jax.Array | None
  constraints: Constraints
  caching: Caching | None
  draft_params: Params | None
  stops: Stops | None

  def prefill(
    self, *, further_tokens: int = 0, **options: Any
  ) -> tuple[jax.Array, ...]:
    """Reads the prompts; returns logits [B, V] and the decoding state.

    Args:
      further_tokens: how many more than max_new_tokens the cache has room for.
      **options: `with_states`, of a `Predictor`.
    """
    if self.caching is not None:
      options["caching"] = self.caching
    found = self.model.prefill(
      self.params,
      self.batch,
      max_new_tokens=self.max_new_tokens + further_tokens,
      **options,
    )
    if self.drawable is None:
      known_V = np.ones(found[0].shape[-1], bool)
      self.constraints.check(known_V, self.constraints.ends)
    return found

  def step(
    self, state: Any, tokens_B: jax.Array, **options: bool
  ) -> tuple[jax.Array, ...]:
    """Appends one token per row; returns logits [B, V] of the next."""
    return self.model.decode_step(self.params, state, tokens_B, **options)

  def drawn(self, logits_RV: jax.Array) -> jax.Array:
    """Returns the logits with -inf for ids that are no tokens, [..., V]."""
    if self.drawable is None:
      return logits_RV
    drawable_V = _fit(self.drawable, logits_RV.shape[-1])
    return jnp.where(drawable_V, logits_RV, -jnp.inf)

  def allow(
    self, logits_RV: jax.Array, tokens_RT: jax.Array, step: jax.Array
  ) -> jax.Array:
    """Returns the logits with -inf for the tokens that may not come.

    Args:
      logits_RV: logits or log probabilities of R / B texts per row.
      tokens_RT: what was generated; from column `step` on anything.
      step: the number of tokens generated so far, int32 scalar.
    """
    logits_RV = self.drawn(logits_RV)
    copies = logits_RV.shape[0] // self.limit_B.shape[0]
    return self.constraints.allow(
      logits_RV,
      prompts=self.prompts.repeat(copies),
      tokens_BT=tokens_RT,
      step=step,
      limit_B=jnp.repeat(self.limit_B, copies),
      end_ids=self.end_ids,
    )

  def ends(self, tokens_RT: jax.Array, step: jax.Array) -> jax.Array:
    """Returns whether texts end with their token of column `step`, bool [R]."""
    ends_R = jnp.isin(tokens_RT[:, step], self.end_ids)
    if self.stops is not None:
      ends_R |= self.stops.found(tokens_RT, step)
    return ends_R

  def keys(self, step: jax.Array) -> jax.Array:
    """Returns the random key of each row at a step."""
    return jax.vmap(jax.random.fold_in, (0, None))(self.row_keys_B, step)

  def emit(
    self,
    sampler: "Sampler",
    step: jax.Array,
    logits_BV: jax.Array,
    done_B: jax.Array,
    generated: Generated,
  ) -> tuple[jax.Array, jax.Array, Generated]:
    """Draws one token for each unfinished row and writes it at `step`.

    Returns:
      the tokens, 0 in finished rows; which rows have no token left or no room
      for another; and what was generated.
    """
    choices_BV = self.allow(logits_BV, generated.tokens, step)
    # A row for which no token is left ends.
    done_B |= jnp.max(choices_BV, axis=-1) == -jnp.inf
    tokens_B = jax.vmap(sampler)(choices_BV, self.keys(step))
    log_probs_BV = jax.nn.log_softmax(logits_BV.astype(jnp.float32))
    log_probs_B = jnp.take_along_axis(log_probs_BV, tokens_B[:, None], 1)[:, 0]
    tokens_B = jnp.where(done_B, 0, tokens_B)
    log_probs_B = jnp.where(done_B, 0.0, log_probs_B)
    here_T = jnp.arange(self.max_new_tokens) == step
    generated = Generated(
      tokens=jnp.where(here_T, tokens_B[:, None], generated.tokens),
      lengths=generated.lengths + ~done_B,
      log_probs=jnp.where(here_T, log_probs_B[:, None], generated.log_probs),
      scores=generated.scores + log_probs_B,
    )
    return tokens_B, done_B | (generated.lengths >= self.limit_B), generated


class Sampler(Protocol):
  """Maps logits [..., V] and a random key to token ids [...], int32.

  One may say `is_random = False`; `generate` asks a key of the others.
  """

  def __call__(self, logits_BV: jax.Array, key: jax.Array) -> jax.Array: ...


class Search(Protocol):
  """Continues a batch by another loop than one token per row after the other.

  Attributes:
    is_random: whether `generate` needs a key.
    forces_phrases: whether texts have the forced phrases; False if absent.
  """

  is_random: bool

  def search(self, request: Request) -> Generated: ...


class DrawsBy:
  """A search that has a `sampler`, which chooses its tokens."""

  @property
  def is_random(self) -> bool:
    """Returns whether tokens are drawn at random."""
    return getattr(self.sampler, "is_random", True)


Strategy = Sampler | Search


def prompt_texts(batch: Batch) -> Texts:
  """Returns the tokens before the first generated one.

  A language model's prompt is its start token and text, as `prefill` takes it;
  an encoder-decoder's is the start token only.
  """
  rows = next(iter(batch.values())).shape[0]
  length_B = jnp.ones(rows, jnp.int32)
  tokens_BS = batch.get("decoder_input_tokens")
  if tokens_BS is None:
    tokens_BS = jnp.zeros((rows, 1), jnp.int32)
  order_BS = prompt_order(batch)
  if order_BS is not None:
    length_B = jnp.sum(batch["decoder_causal_attention"], axis=1)
    tokens_BS = jnp.take_along_axis(tokens_BS, order_BS, axis=1)
  return Texts(tokens_BS, length_B)


def prompt_order(batch: Batch) -> jax.Array | None:
  """Returns the columns of each prompt, padding last, [B, S].

  None for an encoder-decoder, whose prompt is a start token.
  """
  in_prompt_BS = batch.get("decoder_causal_attention")
  if "encoder_input_tokens" in batch or in_prompt_BS is None:
    return None
  return jnp.argsort(in_prompt_BS == 0, axis=1, stable=True)


def settled(
  batch, max_new_tokens, sampler, key, eos_id, constraints, row_ids, drawable
):
  """Returns the key, the ids that end a text, and the row ids of a generation.

  Args: as of `generate`.

  Raises:
    ValueError: max_new_tokens is below 1, a key is missing, or the constraints
      leave no token at some step.
  """
  if max_new_tokens < 1:
    raise ValueError(f"max_new_tokens ({max_new_tokens}) must be at least 1")
  constraints.check_length(max_new_tokens)
  if key is None:
    if getattr(sampler, "is_random", True):
      raise ValueError(f"{sampler} samples at random: pass key=")
    key = jax.random.key(0)
  if constraints.forced and not getattr(sampler, "forces_phrases", False):
    raise ValueError(
      f"the forced phrases ({constraints.forced}) need beams, not {sampler}: "
      "use Beam(num_beams=...), without sample"
    )
  ends = constraints.end_ids(eos_id)
  if drawable is not None:
    constraints.check(np.asarray(drawable), ends)
  if row_ids is None:
    row_ids = jnp.arange(next(iter(batch.values())).shape[0])
  return key, jnp.array(ends or (-1,), jnp.int32), row_ids


def row_limits(
  prompts: Texts, max_new_tokens: int, constraints: Constraints
) -> jax.Array:
  """Returns the maximum number of new tokens of each row, int32 [B]."""
  limit_B = jnp.full(prompts.length_B.shape, max_new_tokens)
  if constraints.max_length is not None:
    limit_B = jnp.minimum(limit_B, constraints.max_length - prompts.length_B)
  return limit_B


def _fit(drawable, size):
  """Fits `drawable` to the model's vocabulary size, bool [V]."""
  known_V = jnp.asarray(drawable)[:size]
  return jnp.pad(known_V, (0, size - len(known_V)))
