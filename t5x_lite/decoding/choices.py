"""What rows may choose next when they are at different steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite.decoding.request import Generated, Request, Sampler
from t5x_lite.decoding.texts import Texts, write_at


class Choices(NamedTuple):
  """Applies sampler and constraints to tokens of any step of any row.

  Attributes:
    request: says what may come, and has the rows' keys.
    sampler: chooses.
    vocab_size: V of the model.
  """

  request: Request
  sampler: Sampler
  vocab_size: int

  def allow(
    self, logits_BTV: jax.Array, texts_BN: jax.Array, step_BT: jax.Array
  ) -> jax.Array:
    """Returns the logits with -inf for the tokens that are not allowed.

    Args:
      logits_BTV: the model's.
      texts_BN: the tokens of each row, of which the first step_BT precede.
      step_BT: the number of tokens generated before each.
    """
    request = self.request

    def row(logits_TV, text_N, step_T, prompt, limit):
      def one(logits_V, step):
        return request.constraints.allow(
          logits_V[None],
          prompts=Texts(*(x[None] for x in prompt)),
          tokens_BT=text_N[None],
          step=step,
          limit_B=limit[None],
          end_ids=request.end_ids,
        )[0]

      return jax.vmap(one)(logits_TV, step_T)

    return jax.vmap(row)(
      request.drawn(logits_BTV), texts_BN, step_BT, request.prompts,
      request.limit_B,
    )  # fmt: skip

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
    step_B = generated.lengths
    step_BT = step_B[:, None] + jnp.arange(tokens_BT.shape[1])
    texts_BN = write_at(generated.tokens, tokens_BT, step_B, tokens_BT.shape[1])
    is_last_BT = jax.vmap(jax.vmap(self._ends, (None, 0)))(texts_BN, step_BT)
    is_last_BT |= step_BT + 1 >= self.request.limit_B[:, None]
    first_B = jnp.argmax(is_last_BT, axis=1)
    ends_B = jnp.any(is_last_BT, axis=1) & (first_B < count_B)
    count_B = jnp.where(ends_B, first_B + 1, count_B)
    count_B = jnp.where(done_B, 0, count_B)
    log_probs_BTV = jax.nn.log_softmax(logits_BTV.astype(jnp.float32))
    log_probs_BT = jnp.take_along_axis(
      log_probs_BTV, tokens_BT[..., None], axis=-1
    )[..., 0]
    log_probs_BT = write_at(generated.log_probs, log_probs_BT, step_B, count_B)
    generated = generated._replace(
      tokens=write_at(generated.tokens, tokens_BT, step_B, count_B),
      lengths=step_B + count_B,
      log_probs=log_probs_BT,
      scores=jnp.sum(log_probs_BT, axis=1),
    )
    return generated, count_B, done_B | ends_B

  def _ends(self, text_N, step):
    return self.request.ends(text_N[None], step)[0]

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

    return jax.vmap(jax.vmap(one, (None, 0)))(self.request.row_keys_B, step_BT)
