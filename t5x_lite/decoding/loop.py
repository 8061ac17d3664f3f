"""Runs the generation loop: one prefill, then one token per row and step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.decoding.constraints import Constraints
from t5x_lite.decoding.request import (
  Generated,
  Predictor,
  Request,
  Sampler,
  Strategy,
  prompt_texts,
  row_limits,
  settled,
)
from t5x_lite.decoding.samplers import Greedy
from t5x_lite.decoding.stops import Stops
from t5x_lite.model import Params
from t5x_lite.nn.caches import Caching

GREEDY = Greedy()
UNCONSTRAINED = Constraints()


def generate(
  model: Predictor,
  params: Params,
  batch: dict[str, jax.Array],
  *,
  max_new_tokens: int,
  sampler: Strategy = GREEDY,
  key: jax.Array | None = None,
  eos_id: int | None = None,
  constraints: Constraints = UNCONSTRAINED,
  row_ids: jax.Array | None = None,
  drawable: np.ndarray | None = None,
  caching: Caching | None = None,
  draft_params: Params | None = None,
  stops: Stops | None = None,
) -> Generated:
  """Continues each row of a batch until EOS or max_new_tokens.

  Compiles once per model, batch shape, max_new_tokens and sampler. A row's
  samples depend only on `key` and its row id, not on its place in the batch,
  the other rows or padding rows.

  Args:
    model: the model.
    params: the model's parameters.
    batch: prompts, in the format of training batches.
    max_new_tokens: the maximum number of tokens to generate, EOS included.
    sampler: the strategy: maps (logits [V], key) to a token, or has a loop of
      its own, as `Beam`, `Contrastive` and `Assisted` do.
    key: a random key; strategies that draw nothing need none.
    eos_id: the token that ends a row if the constraints name none; None: rows
      never end early.
    constraints: forced and suppressed tokens, lengths, and the tokens that end
      a row.
    row_ids: int32 [B], ids that make each row's samples independent of the
      others'; a negative id marks a padding row. None: 0, 1, 2, ...
    drawable: bool [number of ids], marks the ids that may be generated, as
      `sentinels.known_ids` gives them for a vocabulary. Ids beyond, which pad
      the model's vocabulary, are never generated. None: all the model's ids.
    caching: how keys and values are kept and long prompts are read, for models
      whose `prefill` takes it. None: as the model does.
    draft_params: the parameters of the draft model of `Assisted`.
    stops: strings that end a text, with the token in which one ends.

  Raises:
    ValueError: max_new_tokens is below 1, a key is missing, or the constraints
      leave no token at some step.
  """
  key, end_ids, row_ids = settled(
    batch, max_new_tokens, sampler, key, eos_id, constraints, row_ids, drawable
  )
  return _generate(
    model,
    params,
    batch,
    key,
    end_ids,
    row_ids,
    drawable,
    draft_params,
    stops,
    max_new_tokens=max_new_tokens,
    sampler=sampler,
    constraints=constraints,
    caching=caching,
  )


@functools.partial(
  jax.jit,
  static_argnums=0,
  static_argnames=("max_new_tokens", "sampler", "constraints", "caching"),
)
def _generate(
  model,
  params,
  batch,
  key,
  end_ids,
  row_ids_B,
  drawable,
  draft_params,
  stops,
  *,
  max_new_tokens,
  sampler,
  constraints,
  caching,
):
  prompts = prompt_texts(batch)
  request = Request(
    model=model,
    params=params,
    batch=batch,
    row_keys_B=jax.vmap(jax.random.fold_in, (None, 0))(key, row_ids_B),
    is_padding_B=row_ids_B < 0,
    max_new_tokens=max_new_tokens,
    prompts=prompts,
    limit_B=row_limits(prompts, max_new_tokens, constraints),
    end_ids=end_ids,
    drawable=drawable,
    constraints=constraints,
    caching=caching,
    draft_params=draft_params,
    stops=stops,
  )
  if hasattr(sampler, "search"):
    return sampler.search(request)
  return _sample(request, sampler)


def _sample(request: Request, sampler: Sampler) -> Generated:
  """Generates token by token, each drawn by the sampler."""

  def emit(step, logits_BV, done_B, generated):
    tokens_B, done_B, generated = request.emit(
      sampler, step, logits_BV, done_B, generated
    )
    done_B |= request.ends(generated.tokens, step)
    return tokens_B, done_B, generated

  def unfinished(carry):
    step, _, _, done_B, _ = carry
    return (step < request.max_new_tokens) & ~jnp.all(done_B)

  def body(carry):
    step, state, tokens_B, done_B, generated = carry
    logits_BV, state = request.step(state, tokens_B)
    tokens_B, done_B, generated = emit(step, logits_BV, done_B, generated)
    return step + 1, state, tokens_B, done_B, generated

  logits_BV, state = request.prefill()
  empty = Generated.empty(logits_BV.shape[0], request.max_new_tokens)
  # The first token comes from the prefill's logits, outside the loop, so that
  # no decode step is computed in vain at the end.
  first = emit(0, logits_BV, request.is_padding_B, empty)
  carry = (jnp.int32(1), state, *first)
  return jax.lax.while_loop(unfinished, body, carry)[-1]
