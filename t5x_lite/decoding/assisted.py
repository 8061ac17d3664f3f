"""Assisted decoding: a model checks several draft tokens in one step.

Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023,
arXiv:2302.01318). Each round a draft proposes K tokens, and the model reads all
of them at once; those that it would have chosen stay, and one of its own
follows. The text has the distribution of the model alone.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.decoding.choices import Choices
from t5x_lite.decoding.drafts import Draft
from t5x_lite.decoding.request import (
  Acceptance,
  DrawsBy,
  Generated,
  Request,
  Sampler,
)
from t5x_lite.decoding.samplers import Greedy
from t5x_lite.decoding.texts import write_at

_ACCEPT, _CORRECT = 2, 3  # The uses of a key (Choices.keys).


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assisted(DrawsBy):
  """Draws tokens with the help of a draft, in fewer steps of the model.

  With Greedy the tokens are those of Greedy alone; with other samplers they
  have the same distribution, but are not the same draws. The model must have
  `decode_tokens` and `roll_back`, as `Model` has. `Generated.acceptance` says
  how many draft tokens were accepted. Of `Caching`, prefill_chunk must be above
  the number of draft tokens.

  Attributes:
    draft: proposes tokens: a DraftModel, whose parameters `generate` takes as
      draft_params, or PromptLookup.
    sampler: draws the tokens.
  """

  draft: Draft
  sampler: Sampler = Greedy()

  def __post_init__(self):
    checks.fields(self)

  def search(self, request: Request) -> Generated:
    """Runs the rounds; see `generate`."""
    # A round writes all of its tokens, also where a row needs fewer.
    logits_BV, state = request.prefill(further_tokens=self.draft.num_tokens)
    choices = Choices(request, self.sampler, logits_BV.shape[-1])
    return _rounds(logits_BV, state, self.draft, choices)


class _Carry(NamedTuple):
  state: Any
  draft_state: Any
  last_B: jax.Array
  done_B: jax.Array
  generated: Generated


def _rounds(
  logits_BV: jax.Array, state: Any, draft: Draft, choices: Choices
) -> Generated:
  request = choices.request
  model, params = request.model, request.params
  limit_B, max_new_tokens = request.limit_B, request.max_new_tokens
  num_rows, num_draft = limit_B.shape[0], draft.num_tokens
  columns_T = jnp.arange(num_draft + 1)

  def body(carry):
    generated = carry.generated
    step_B = generated.lengths
    # How many tokens the round can add: the draft's but for the last.
    left_B = jnp.where(carry.done_B, 0, limit_B - step_B)
    texts_BN = jnp.pad(generated.tokens, [(0, 0), (0, num_draft)])
    proposal, draft_state = draft.propose(
      request.draft_params, carry.draft_state, texts_BN, step_B, left_B, choices
    )
    read_B = jnp.minimum(left_B, num_draft + 1)
    tokens_BT = jnp.concatenate(
      [carry.last_B[:, None], proposal.tokens_BK], axis=1
    )
    logits_BTV, state = model.decode_tokens(
      params, carry.state, tokens_BT, lengths_B=read_B
    )
    usable_B = jnp.maximum(read_B - 1, 0)
    texts_BN = write_at(texts_BN, proposal.tokens_BK, step_B, num_draft)
    step_BT = step_B[:, None] + columns_T
    allowed_BTV = choices.allow(logits_BTV, texts_BN, step_BT)
    accepted_B, next_B = _verify(
      choices, allowed_BTV, proposal, usable_B, step_BT
    )
    # A row for which no token is left ends, as in `generate`.
    is_over_B = jnp.max(_at(allowed_BTV, accepted_B), axis=-1) == -jnp.inf
    drafted_BT = jnp.pad(proposal.tokens_BK, [(0, 0), (0, 1)])
    is_next_BT = columns_T == accepted_B[:, None]
    tokens_BT = jnp.where(is_next_BT, next_B[:, None], drafted_BT)
    generated, count_B, done_B = choices.append(
      generated, logits_BTV, tokens_BT, accepted_B + ~is_over_B, carry.done_B
    )
    rounds, proposed, accepted = generated.acceptance
    acceptance = Acceptance(
      rounds + ~carry.done_B,
      proposed + usable_B,
      accepted + jnp.minimum(accepted_B, count_B),
    )
    return _Carry(
      model.roll_back(state, usable_B - accepted_B),
      draft.accept(draft_state, proposal, accepted_B, next_B),
      next_B, done_B | is_over_B, generated._replace(acceptance=acceptance),
    )  # fmt: skip

  zeros_B = jnp.zeros(num_rows, jnp.int32)
  empty = Generated.empty(num_rows, max_new_tokens)._replace(
    acceptance=Acceptance(zeros_B, zeros_B, zeros_B)
  )
  logits_B1V = logits_BV[:, None]
  allowed_B1V = choices.allow(logits_B1V, empty.tokens, zeros_B[:, None])
  first_B = choices.draw(allowed_B1V[:, 0], zeros_B)
  is_over_B = jnp.max(allowed_B1V[:, 0], axis=-1) == -jnp.inf
  generated, _, done_B = choices.append(
    empty, logits_B1V, first_B[:, None], zeros_B + 1,
    request.is_padding_B | is_over_B,
  )  # fmt: skip
  draft_state = draft.start(
    request.draft_params, request.batch, first_B, max_new_tokens
  )
  carry = _Carry(
    model.roll_back(state, zeros_B),  # Of a row each, as in the loop.
    draft_state, first_B, done_B, generated,
  )  # fmt: skip
  carry = jax.lax.while_loop(lambda c: ~jnp.all(c.done_B), body, carry)
  return carry.generated


def _verify(choices, allowed_BTV, proposal, usable_B, step_BT):
  """Returns how many draft tokens stand, and the token that follows them.

  Algorithm 1, Leviathan et al. 2023, arXiv:2211.17192: a token drawn from q
  stands with probability min(1, p / q); in place of the first that does not
  comes one of max(0, p - q), after all of them one of p.

  Args:
    choices: what may come.
    allowed_BTV: the model's logits, before each of K draft tokens and after
      them, constraints applied.
    proposal: the draft tokens.
    usable_B: how many of them may stand.
    step_BT: the number of tokens generated before each.
  """
  sampler, tokens_BK = choices.sampler, proposal.tokens_BK
  num_draft = tokens_BK.shape[1]
  usable_BK = jnp.arange(num_draft) < usable_B[:, None]

  def accepted(stands_BK):
    return jnp.sum(jnp.cumprod(stands_BK & usable_BK, axis=1), axis=1)

  if isinstance(sampler, Greedy):
    best_BT = jnp.argmax(allowed_BTV, axis=-1).astype(jnp.int32)
    accepted_B = accepted(best_BT[:, :-1] == tokens_BK)
    return accepted_B, _at(best_BT, accepted_B)

  p_BTV, q_BKV = sampler.probabilities(allowed_BTV), proposal.probs_BKV
  if q_BKV is None:
    q_BKV = jax.nn.one_hot(tokens_BK, p_BTV.shape[-1])
  p_BK, q_BK = (
    jnp.take_along_axis(x, tokens_BK[..., None], axis=-1)[..., 0]
    for x in (p_BTV[:, :-1], q_BKV)
  )
  keys_BK = choices.keys(step_BT[:, :-1], _ACCEPT)
  uniform_BK = jax.vmap(jax.vmap(jax.random.uniform))(keys_BK)
  accepted_B = accepted(uniform_BK * q_BK < p_BK)
  p_BV = _at(p_BTV, accepted_B)
  q_BV = _at(q_BKV, jnp.minimum(accepted_B, num_draft - 1))
  was_refused_B = accepted_B < usable_B
  rest_BV = jnp.maximum(p_BV - jnp.where(was_refused_B[:, None], q_BV, 0), 0)
  # Where p is q to rounding, nothing may be left of a token that was refused.
  any_B1 = jnp.any(rest_BV > 0, axis=-1, keepdims=True)
  rest_BV = jnp.where(any_B1, rest_BV, p_BV)
  keys_B = choices.keys(_at(step_BT, accepted_B)[:, None], _CORRECT)[:, 0]
  next_B = jax.vmap(jax.random.categorical)(keys_B, jnp.log(rest_BV))
  return accepted_B, next_B.astype(jnp.int32)


def _at(x_BT, place_B):
  """Returns x[row, place[row]] of each row."""
  return jax.vmap(lambda x_T, place: x_T[place])(x_BT, place_B)
