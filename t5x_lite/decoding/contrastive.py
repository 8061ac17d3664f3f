"""Contrastive search: probable tokens that do not resemble the text so far."""

import dataclasses
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.decoding.request import Generated, Request, prompt_order


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive:
  """Takes, of the top_k most probable tokens v, that of the highest

    (1 - penalty_alpha) p(v) - penalty_alpha max_j cos(h_v, h_j)

  where h_v is the state that the last layer gives for v, and h_j those for the
  tokens before (Su et al. 2022, arXiv:2202.06417, eq. 5). Each step runs the
  model on all top_k candidates. The tokens before are the decoder's: prompt or
  start token, and what was generated.

  Attributes:
    penalty_alpha: 0 is greedy search.
    top_k: how many candidates there are.

  Raises:
    ValueError: a setting is out of range.
  """

  is_random: ClassVar[bool] = False

  penalty_alpha: checks.Fraction = 0.6
  top_k: Annotated[int, checks.Range(1, 1000)] = 4

  def __post_init__(self):
    checks.fields(self)

  def search(self, request: Request) -> Generated:
    """Runs the search; see `generate`."""
    # The last token too is read, to compare its state.
    logits_BV, state, hidden_BSD = request.prefill(
      further_tokens=1, with_states=True
    )
    rows, vocab_size = logits_BV.shape
    copies = min(self.top_k, vocab_size)
    length = request.max_new_tokens
    rows_B, columns_T = jnp.arange(rows), jnp.arange(length)
    in_prompt_BS = (
      jnp.arange(hidden_BSD.shape[1]) < request.prompts.length_B[:, None]
    )
    if (order_BS := prompt_order(request.batch)) is not None:
      hidden_BSD = jnp.take_along_axis(hidden_BSD, order_BS[..., None], axis=1)
    hidden_BSD = jnp.pad(_unit(hidden_BSD), ((0, 0), (0, length), (0, 0)))

    def unfinished(carry):
      _, step, _, _, done_B, _ = carry
      return (step < length) & ~jnp.all(done_B)

    def body(carry):
      state, step, logits_BV, hidden_BSD, done_B, generated = carry
      choices_BV = request.allow(logits_BV, generated.tokens, step)
      # A row for which no token is left ends.
      done_B |= jnp.max(choices_BV, axis=-1) == -jnp.inf
      probs_BV = jax.nn.softmax(choices_BV.astype(jnp.float32))
      probs_BK, tokens_BK = jax.lax.top_k(probs_BV, copies)
      tokens_BK = tokens_BK.astype(jnp.int32)
      slot = state.slot
      logits_RV, state, hidden_R1D = request.step(
        state, tokens_BK.reshape(-1), with_states=True
      )
      hidden_BKD = _unit(hidden_R1D).reshape(rows, copies, -1)
      is_text_BS = jnp.concatenate(
        [in_prompt_BS, jnp.broadcast_to(columns_T < step, (rows, length))], 1
      )
      cosine_BKS = jnp.einsum("BKD,BSD->BKS", hidden_BKD, hidden_BSD)
      cosine_BKS = jnp.where(is_text_BS[:, None], cosine_BKS, -jnp.inf)
      scores_BK = (1 - self.penalty_alpha) * probs_BK
      scores_BK -= self.penalty_alpha * jnp.max(cosine_BKS, axis=-1)
      # Of no probability is what constraints forbid.
      scores_BK = jnp.where(probs_BK > 0, scores_BK, -jnp.inf)
      best_B = jnp.argmax(scores_BK, axis=1)

      tokens_B = jnp.where(done_B, 0, tokens_BK[rows_B, best_B])
      log_probs_BV = jax.nn.log_softmax(logits_BV.astype(jnp.float32))
      log_probs_B = jnp.where(done_B, 0.0, log_probs_BV[rows_B, tokens_B])
      generated = generated._replace(
        tokens=generated.tokens.at[:, step].set(tokens_B),
        lengths=generated.lengths + ~done_B,
        log_probs=generated.log_probs.at[:, step].set(log_probs_B),
        scores=generated.scores + log_probs_B,
      )
      done_B |= request.ends(generated.tokens, step)
      done_B |= generated.lengths >= request.limit_B
      # The copies of a row differ in the newest slot alone.
      taken_B = rows_B * copies + best_B
      state = state.take_rows(jnp.repeat(taken_B, copies), slots=(slot, 1))
      hidden_BSD = jax.lax.dynamic_update_slice_in_dim(
        hidden_BSD, hidden_BKD[rows_B, best_B][:, None],
        in_prompt_BS.shape[1] + step, axis=1,
      )  # fmt: skip
      logits_BV = logits_RV[taken_B]
      return state, step + 1, logits_BV, hidden_BSD, done_B, generated

    empty = Generated.empty(rows, length)
    state = state.take_rows(jnp.repeat(rows_B, copies))
    carry = (
      state, jnp.int32(0), logits_BV, hidden_BSD, request.is_padding_B, empty
    )  # fmt: skip
    return jax.lax.while_loop(unfinished, body, carry)[-1]


def _unit(hidden: jax.Array) -> jax.Array:
  """Returns vectors of length 1, float32."""
  hidden = hidden.astype(jnp.float32)
  norm = jnp.linalg.norm(hidden, axis=-1, keepdims=True)
  return hidden / jnp.maximum(norm, 1e-12)
