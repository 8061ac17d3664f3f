"""What rows may choose next when they are at different steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.decoding.constraints import Constraints
from t5x_lite.decoding.samplers import Greedy, Sampler


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
