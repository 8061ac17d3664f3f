"""Assisted decoding: a model checks several draft tokens in one step.

Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023,
arXiv:2302.01318). Each round a draft proposes K tokens, and the model reads all
of them at once; those that it would have chosen stay, and one of its own
follows. The text has the distribution of the model alone.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.decoding.choices import (
  Choices,
  Generated,
  empty,
  fit_drawable,
  row_lengths,
  settled,
)
from t5x_lite.decoding.constraints import Constraints
from t5x_lite.decoding.drafts import Draft, StepsBack
from t5x_lite.decoding.loop import GREEDY, UNCONSTRAINED
from t5x_lite.decoding.samplers import Greedy, Sampler
from t5x_lite.model import Params
from t5x_lite.nn.caches import Caching

_ACCEPT, _CORRECT = 2, 3  # The uses of a key (Choices.keys).


class Acceptance(NamedTuple):
  """How many draft tokens stood, int32 [B] each.

  Attributes:
    rounds: the model's steps after the prompt, in which a row took part.
    proposed: draft tokens of these that could be of use.
    accepted: draft tokens that are part of the text.
  """

  rounds: jax.Array
  proposed: jax.Array
  accepted: jax.Array


def generate_assisted(
  model: StepsBack,
  params: Params,
  batch: dict[str, jax.Array],
  *,
  draft: Draft,
  draft_params: Params | None = None,
  max_new_tokens: int,
  sampler: Sampler = GREEDY,
  key: jax.Array | None = None,
  eos_id: int | None = None,
  constraints: Constraints = UNCONSTRAINED,
  row_ids: jax.Array | None = None,
  drawable: np.ndarray | None = None,
  caching: Caching | None = None,
) -> tuple[Generated, Acceptance]:
  """Continues each row of a batch as `generate` does, in fewer steps.

  With Greedy the tokens are those of `generate`; with other samplers they have
  the same distribution, but are not the same draws. A row's text depends only
  on `key` and its row id, not on its place or the other rows.

  Args:
    model: whose text is generated.
    params: the model's parameters.
    batch: prompts, in the format of training batches.
    draft: proposes tokens: a DraftModel, or PromptLookup.
    draft_params: the parameters of a draft model.
    max_new_tokens, sampler, key, eos_id, constraints, row_ids, drawable: as of
      `generate`; they hold for the draft too.
    caching: as of `generate`, for the model alone; its prefill_chunk must be
      above the number of draft tokens.

  Returns:
    what was generated, and how many draft tokens were accepted.

  Raises:
    ValueError: as of `generate`; or the draft's vocabulary is another.
  """
  key, ends, row_ids = settled(
    batch, max_new_tokens, sampler, key, eos_id, constraints, row_ids, drawable
  )
  return _generate(
    model, params, draft, draft_params, batch, key,
    jnp.array(ends or (-1,), jnp.int32), row_ids, drawable,
    max_new_tokens=max_new_tokens, sampler=sampler, constraints=constraints,
    caching=caching,
  )  # fmt: skip


class _Carry(NamedTuple):
  state: Any
  draft_state: Any
  last_B: jax.Array
  done_B: jax.Array
  generated: Generated
  acceptance: Acceptance


@functools.partial(
  jax.jit,
  static_argnums=(0, 2),
  static_argnames=("max_new_tokens", "sampler", "constraints", "caching"),
)
def _generate(
  model,
  params,
  draft,
  draft_params,
  batch,
  key,
  end_ids,
  row_ids_B,
  drawable,
  *,
  max_new_tokens,
  sampler,
  constraints,
  caching,
):
  num_rows, num_draft = row_ids_B.shape[0], draft.num_tokens
  # A round writes all of its tokens, also where a row needs fewer.
  kept = {} if caching is None else {"caching": caching}
  logits_BV, state = model.prefill(
    params, batch, max_new_tokens=max_new_tokens + num_draft, **kept
  )
  size = logits_BV.shape[-1]
  if drawable is None:
    constraints.check(np.ones(size, bool), constraints.ends)
  prompt_length_B, limit_B = row_lengths(batch, max_new_tokens, constraints)
  choices = Choices(
    sampler=sampler,
    constraints=constraints,
    end_ids=end_ids,
    row_keys_B=jax.vmap(jax.random.fold_in, (None, 0))(key, row_ids_B),
    prompt_length_B=prompt_length_B,
    limit_B=limit_B,
    drawable_V=None if drawable is None else fit_drawable(drawable, size),
    vocab_size=size,
  )
  columns_T = jnp.arange(num_draft + 1)

  def body(carry):
    step_B = carry.generated.lengths
    # How many tokens the round can add: the draft's but for the last.
    left_B = jnp.where(carry.done_B, 0, limit_B - step_B)
    proposal, draft_state = draft.propose(
      draft_params, carry.draft_state, step_B, left_B, choices
    )
    read_B = jnp.minimum(left_B, num_draft + 1)
    tokens_BT = jnp.concatenate(
      [carry.last_B[:, None], proposal.tokens_BK], axis=1
    )
    logits_BTV, state = model.decode_tokens(
      params, carry.state, tokens_BT, lengths_B=read_B
    )
    usable_B = jnp.maximum(read_B - 1, 0)
    accepted_B, next_B = _verify(
      choices, logits_BTV, proposal, usable_B, step_B
    )
    drafted_BT = jnp.pad(proposal.tokens_BK, [(0, 0), (0, 1)])
    is_next_BT = columns_T == accepted_B[:, None]
    tokens_BT = jnp.where(is_next_BT, next_B[:, None], drafted_BT)
    generated, count_B, done_B = choices.append(
      carry.generated, logits_BTV, tokens_BT, accepted_B + 1, carry.done_B
    )
    rounds, proposed, accepted = carry.acceptance
    acceptance = Acceptance(
      rounds + ~carry.done_B,
      proposed + usable_B,
      accepted + jnp.minimum(accepted_B, count_B),
    )
    return _Carry(
      model.roll_back(state, usable_B - accepted_B),
      draft.accept(draft_state, proposal, accepted_B, next_B),
      next_B, done_B, generated, acceptance,
    )  # fmt: skip

  zeros_B = jnp.zeros(num_rows, jnp.int32)
  allowed_B1V = choices.allow(logits_BV[:, None], zeros_B[:, None])
  first_B = choices.draw(allowed_B1V[:, 0], zeros_B)
  generated, _, done_B = choices.append(
    empty(num_rows, max_new_tokens), logits_BV[:, None], first_B[:, None],
    zeros_B + 1, row_ids_B < 0,
  )  # fmt: skip
  draft_state = draft.start(draft_params, batch, first_B, max_new_tokens)
  carry = _Carry(
    model.roll_back(state, zeros_B),  # Of a row each, as in the loop.
    draft_state, first_B, done_B, generated,
    Acceptance(zeros_B, zeros_B, zeros_B),
  )  # fmt: skip
  carry = jax.lax.while_loop(lambda c: ~jnp.all(c.done_B), body, carry)
  return carry.generated, carry.acceptance


def _verify(choices, logits_BTV, proposal, usable_B, step_B):
  """Returns how many draft tokens stand, and the token that follows them.

  Algorithm 1, Leviathan et al. 2023, arXiv:2211.17192: a token drawn from q
  stands with probability min(1, p / q); in place of the first that does not
  comes one of max(0, p - q), after all of them one of p.

  Args:
    choices: what may come.
    logits_BTV: the model's, before each of K draft tokens and after them.
    proposal: the draft tokens.
    usable_B: how many of them may stand.
    step_B: the number of tokens generated before.
  """
  sampler, tokens_BK = choices.sampler, proposal.tokens_BK
  num_draft = tokens_BK.shape[1]
  step_BT = step_B[:, None] + jnp.arange(num_draft + 1)
  allowed_BTV = choices.allow(logits_BTV, step_BT)
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
  keys_B = choices.keys((step_B + accepted_B)[:, None], _CORRECT)[:, 0]
  next_B = jax.vmap(jax.random.categorical)(keys_B, jnp.log(rest_BV))
  return accepted_B, next_B.astype(jnp.int32)


def _at(x_BT, place_B):
  """Returns x[row, place[row]] of each row."""
  return jax.vmap(lambda x_T, place: x_T[place])(x_BT, place_B)
