"""Runs the generation loop: one prefill, then one token per row and step."""

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.decoding.choices import (
  Generated,
  fit_drawable,
  row_lengths,
  settled,
)
from t5x_lite.decoding.constraints import Constraints
from t5x_lite.decoding.samplers import Greedy, Sampler
from t5x_lite.model import Batch, Params
from t5x_lite.nn.caches import Caching

GREEDY = Greedy()
UNCONSTRAINED = Constraints()


class Predictor(Protocol):
  """A model that predicts the next token, such as `Model`; hashable."""

  def prefill(
    self, params: Params, batch: Batch, *, max_new_tokens: int
  ) -> tuple[jax.Array, Any]:
    """Reads the prompts; returns logits [B, V] and the decoding state."""

  def decode_step(
    self, params: Params, state: Any, tokens_B: jax.Array
  ) -> tuple[jax.Array, Any]:
    """Appends one token per row; returns logits [B, V] of the next."""


def generate(
  model: Predictor,
  params: Params,
  batch: dict[str, jax.Array],
  *,
  max_new_tokens: int,
  sampler: Sampler = GREEDY,
  key: jax.Array | None = None,
  eos_id: int | None = None,
  constraints: Constraints = UNCONSTRAINED,
  row_ids: jax.Array | None = None,
  drawable: np.ndarray | None = None,
  caching: Caching | None = None,
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
    sampler: maps (logits [V], key) to a token.
    key: a random key; only Greedy needs none.
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

  Raises:
    ValueError: max_new_tokens is below 1, a key is missing, or the constraints
      leave no token at some step.
  """
  key, ends, row_ids = settled(
    batch, max_new_tokens, sampler, key, eos_id, constraints, row_ids, drawable
  )
  return _generate(
    model,
    params,
    batch,
    key,
    jnp.array(ends or (-1,), jnp.int32),
    row_ids,
    drawable,
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
  *,
  max_new_tokens,
  sampler,
  constraints,
  caching,
):
  row_keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, row_ids_B)
  columns_T = jnp.arange(max_new_tokens)
  prompt_length_B, limit_B = row_lengths(batch, max_new_tokens, constraints)

  def emit(step, logits_BV, done_B, generated):
    """Samples one token for each unfinished row and writes it at `step`."""
    step_keys_B = jax.vmap(jax.random.fold_in, (0, None))(row_keys_B, step)
    choices_BV = logits_BV
    if drawable is not None:
      known_V = fit_drawable(drawable, logits_BV.shape[-1])
      choices_BV = jnp.where(known_V, logits_BV, -jnp.inf)
    choices_BV = constraints.allow(
      choices_BV,
      step=step,
      prompt_length_B=prompt_length_B,
      limit_B=limit_B,
      end_ids=end_ids,
    )
    tokens_B = jax.vmap(sampler)(choices_BV, step_keys_B)
    log_probs_BV = jax.nn.log_softmax(logits_BV.astype(jnp.float32))
    log_probs_B = jnp.take_along_axis(log_probs_BV, tokens_B[:, None], 1)[:, 0]
    tokens_B = jnp.where(done_B, 0, tokens_B)
    log_probs_B = jnp.where(done_B, 0.0, log_probs_B)
    here_T = columns_T == step
    generated = Generated(
      tokens=jnp.where(here_T, tokens_B[:, None], generated.tokens),
      lengths=generated.lengths + ~done_B,
      log_probs=jnp.where(here_T, log_probs_B[:, None], generated.log_probs),
    )
    ended_B = jnp.isin(tokens_B, end_ids) | (generated.lengths >= limit_B)
    return tokens_B, done_B | ended_B, generated

  def unfinished(carry):
    step, _, _, done_B, _ = carry
    return (step < max_new_tokens) & ~jnp.all(done_B)

  def body(carry):
    step, state, tokens_B, done_B, generated = carry
    logits_BV, state = model.decode_step(params, state, tokens_B)
    tokens_B, done_B, generated = emit(step, logits_BV, done_B, generated)
    return step + 1, state, tokens_B, done_B, generated

  kept = {} if caching is None else {"caching": caching}
  logits_BV, state = model.prefill(
    params, batch, max_new_tokens=max_new_tokens, **kept
  )
  if drawable is None:
    constraints.check(np.ones(logits_BV.shape[-1], bool), constraints.ends)
  shape_BT = (row_ids_B.shape[0], max_new_tokens)
  empty = Generated(
    tokens=jnp.zeros(shape_BT, jnp.int32),
    lengths=jnp.zeros(shape_BT[0], jnp.int32),
    log_probs=jnp.zeros(shape_BT, jnp.float32),
  )
  # The first token comes from the prefill's logits, outside the loop, so that
  # no decode step is computed in vain at the end.
  tokens_B, done_B, generated = emit(0, logits_BV, row_ids_B < 0, empty)
  carry = (jnp.int32(1), state, tokens_B, done_B, generated)
  return jax.lax.while_loop(unfinished, body, carry)[-1]
