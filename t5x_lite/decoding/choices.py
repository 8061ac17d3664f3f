"""What rows may choose next when they are at different steps."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.decoding.constraints import Constraints
from t5x_lite.decoding.samplers import Greedy, Sampler


class Generated(NamedTuple):
  """Holds the result of `generate`.

  tokens: int32 [B, max_new_tokens]; 0 after a row's end.
  lengths: int32 [B], the number of tokens, EOS included; 0 for padding rows.
  log_probs: float32 [B, max_new_tokens], the model's log probability of each
    token, in nats, over all ids and before constraints, temperature, top_k and
    top_p; 0 after a row's end.
  """

  tokens: jax.Array
  lengths: jax.Array
  log_probs: jax.Array


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=(
    "end_ids", "row_keys_B", "prompt_length_B", "limit_B", "drawable_V",
  ),
  meta_fields=("sampler", "constraints", "vocab_size"),
)  # fmt: skip
@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
  """Applies sampler and constraints to tokens of any step of any row.

  Attributes:
    sampler, constraints: as of `generate`.
    end_ids: int32 [N], the ids that end a text.
    row_keys_B: a random key per row.
    prompt_length_B: the number of prompt tokens.
    limit_B: the maximum number of tokens to generate.
    drawable_V: bool, the ids that may come, or None for all.
    vocab_size: V of the model.
  """

  sampler: Sampler
  constraints: Constraints
  end_ids: jax.Array
  row_keys_B: jax.Array
  prompt_length_B: jax.Array
  limit_B: jax.Array
  drawable_V: jax.Array | None
  vocab_size: int

  def allow(self, logits_BTV: jax.Array, step_BT: jax.Array) -> jax.Array:
    """Returns the logits with -inf for the tokens that are not allowed.

    Args:
      logits_BTV: the model's.
      step_BT: the number of tokens generated before each.
    """
    if self.drawable_V is not None:
      logits_BTV = jnp.where(self.drawable_V, logits_BTV, -jnp.inf)

    def row(logits_TV, step_T, prompt_length, limit):
      def one(logits_V, step):
        return self.constraints.allow(
          logits_V[None],
          step=step,
          prompt_length_B=prompt_length[None],
          limit_B=limit[None],
          end_ids=self.end_ids,
        )[0]

      return jax.vmap(one)(logits_TV, step_T)

    limits = self.prompt_length_B, self.limit_B
    return jax.vmap(row)(logits_BTV, step_BT, *limits)

  def append(
    self,
    generated: Generated,
    logits_BTV: jax.Array,
    tokens_BT: jax.Array,
    count_B: jax.Array,
    done_B: jax.Array,
  ) -> tuple[Generated, jax.Array, jax.Array]:
    """Appends the first `count_B` tokens of each unfinished row, up to its end.

    Args:
      generated: what was generated before.
      logits_BTV: the model's, before each token.
      tokens_BT: the tokens.
      count_B: how many of them.
      done_B: the rows that have ended.

    Returns:
      what was generated, how many tokens were appended, and which rows ended.
    """
    step_BT = generated.lengths[:, None] + jnp.arange(tokens_BT.shape[1])
    is_last_BT = jnp.isin(tokens_BT, self.end_ids)
    is_last_BT |= step_BT + 1 >= self.limit_B[:, None]
    first_B = jnp.argmax(is_last_BT, axis=1)
    ends_B = jnp.any(is_last_BT, axis=1) & (first_B < count_B)
    count_B = jnp.where(ends_B, first_B + 1, count_B)
    count_B = jnp.where(done_B, 0, count_B)
    log_probs_BTV = jax.nn.log_softmax(logits_BTV.astype(jnp.float32))
    log_probs_BT = jnp.take_along_axis(
      log_probs_BTV, tokens_BT[..., None], axis=-1
    )[..., 0]
    generated = generated._replace(
      tokens=write_at(generated.tokens, tokens_BT, generated.lengths, count_B),
      lengths=generated.lengths + count_B,
      log_probs=write_at(
        generated.log_probs, log_probs_BT, generated.lengths, count_B
      ),
    )
    return generated, count_B, done_B | ends_B

  def draw(
    self, allowed_BV: jax.Array, step_B: jax.Array, use: int | None = None
  ) -> jax.Array:
    """Returns a token per row, int32 [B], of logits that `allow` gave."""
    keys_B = self.keys(step_B[:, None], use)[:, 0]
    return jax.vmap(self.sampler)(allowed_BV, keys_B)

  def keys(self, step_BT: jax.Array, use: int | None = None) -> jax.Array:
    """Returns a key per row and step, [B, T].

    What a row draws so depends on its own key and step alone.

    Args:
      step_BT: the number of tokens generated before each.
      use: tells keys of one step apart; None for those of `generate`.
    """

    def one(key, step):
      key = jax.random.fold_in(key, step)
      return key if use is None else jax.random.fold_in(key, use)

    return jax.vmap(jax.vmap(one, (None, 0)))(self.row_keys_B, step_BT)


def empty(rows: int, max_new_tokens: int) -> Generated:
  """Returns rows of which nothing is generated yet."""
  return Generated(
    tokens=jnp.zeros((rows, max_new_tokens), jnp.int32),
    lengths=jnp.zeros(rows, jnp.int32),
    log_probs=jnp.zeros((rows, max_new_tokens), jnp.float32),
  )


def write_at(
  old_BL: jax.Array, new_BT: jax.Array, start_B: jax.Array, count_B: jax.Array
) -> jax.Array:
  """Returns `old` with the first `count` of `new` from column `start` on."""
  place_BL = jnp.arange(old_BL.shape[1]) - start_B[:, None]
  new_BL = jnp.take_along_axis(new_BT, place_BL, axis=1, mode="clip")
  is_new_BL = (place_BL >= 0) & (place_BL < count_B[:, None])
  return jnp.where(is_new_BL, new_BL, old_BL)


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
  if key is None:
    if not isinstance(sampler, Greedy):
      raise ValueError(f"{sampler} samples at random: pass key=")
    key = jax.random.key(0)
  ends = constraints.end_ids(eos_id)
  if drawable is not None:
    constraints.check(np.asarray(drawable), ends)
  if row_ids is None:
    row_ids = jnp.arange(next(iter(batch.values())).shape[0])
  return key, ends, row_ids


def fit_drawable(drawable: jax.Array, size: int) -> jax.Array:
  """Fits `drawable` to a model's vocabulary size, bool [V]."""
  known_V = jnp.asarray(drawable)[:size]
  return jnp.pad(known_V, (0, size - len(known_V)))


def row_lengths(batch, max_new_tokens, constraints):
  """Returns each row's prompt length and maximum number of new tokens.

  A language model's prompt is its start token and text, as `prefill` takes it;
  an encoder-decoder's is the start token only.
  """
  rows = next(iter(batch.values())).shape[0]
  prompt_length_B = jnp.ones(rows, jnp.int32)
  if (
    "encoder_input_tokens" not in batch and "decoder_causal_attention" in batch
  ):
    prompt_length_B = jnp.sum(batch["decoder_causal_attention"], axis=1)
  limit_B = jnp.full(rows, max_new_tokens)
  if constraints.max_length is not None:
    limit_B = jnp.minimum(limit_B, constraints.max_length - prompt_length_B)
  return prompt_length_B, limit_B
