"""Continuous batching: a finished row gives its place to the next prompt.

Iteration-level scheduling (Yu et al. 2022, Orca, OSDI). A batch waits for its
longest text; here a fixed number of rows stays busy as long as prompts are
left, whatever the lengths of the texts.
"""

import collections
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.decoding.choices import Choices
from t5x_lite.decoding.constraints import Constraints
from t5x_lite.decoding.loop import GREEDY, UNCONSTRAINED
from t5x_lite.decoding.places import Places
from t5x_lite.decoding.request import (
  Generated,
  Request,
  Sampler,
  prompt_texts,
  row_limits,
  settled,
)
from t5x_lite.decoding.stops import Stops
from t5x_lite.decoding.texts import Texts
from t5x_lite.model import Model, Params
from t5x_lite.nn.caches import PLAIN_CACHE, Caching

_SMALLEST_BUCKET = 16


def generate_continuously(
  model: Model,
  params: Params,
  batch: dict[str, np.ndarray],
  *,
  rows: int,
  max_new_tokens: int,
  sampler: Sampler = GREEDY,
  key: jax.Array | None = None,
  eos_id: int | None = None,
  constraints: Constraints = UNCONSTRAINED,
  row_ids: np.ndarray | None = None,
  drawable: np.ndarray | None = None,
  caching: Caching = PLAIN_CACHE,
  stops: Stops | None = None,
  slots: int | None = None,
) -> Generated:
  """Continues each prompt as `generate` does, `rows` of them at a time.

  A prompt is read by itself, cut to a bucket: the next power of two, from 16
  on. One program per bucket and one for the steps are compiled, whatever the
  prompts and texts are. The tokens are those of `generate`: of Greedy, and
  with the same `key` and row ids of other samplers.

  Args:
    model: the model.
    params: the model's parameters.
    batch: all prompts, in the format of training batches.
    rows: how many are decoded at the same time.
    max_new_tokens, sampler, key, eos_id, constraints, row_ids, drawable,
      caching, stops: as of `generate`.
    slots: of keys and values, which all rows share: a prompt takes as many as
      its bucket and max_new_tokens, and waits for them if need be. None: each
      row has as many as the longest prompt takes.

  Returns:
    NumPy arrays in the order of the prompts.

  Raises:
    ValueError: rows is below 1, slots are too few, the sampler does more than
      draw a token at a time, or as of `generate`.
  """
  if rows < 1:
    raise ValueError(f"rows ({rows}) must be at least 1")
  if hasattr(sampler, "search"):
    raise ValueError(
      f"rows that come and go are continued token by token, not by {sampler}: "
      "use Greedy or Sample, or generate"
    )
  key, end_ids, row_ids = settled(
    batch, max_new_tokens, sampler, key, eos_id, constraints, row_ids, drawable
  )
  if drawable is None:
    size = model.transformer.vocab_size
    constraints.check(np.ones(size, bool), constraints.ends)
  batch = {name: np.asarray(values) for name, values in batch.items()}
  row_ids = np.asarray(row_ids)
  settings = _Settings(max_new_tokens, sampler, constraints, caching)
  given = _Given(key, end_ids, drawable, stops)
  queue = collections.deque(np.flatnonzero(row_ids >= 0))
  occupants = np.full(min(rows, max(1, len(queue))), -1)
  results = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype),
    Generated.empty(len(row_ids), max_new_tokens),
  )
  prompts = [
    {name: x[i] for name, x in batch.items()} for i in range(len(row_ids))
  ]
  buckets = [_span(prompt)[-1] for prompt in prompts]
  length = max(buckets)
  pool = _empty_pool(
    model, params, prompts[buckets.index(length)], len(occupants), settings,
    length, slots,
  )  # fmt: skip
  # An encoder's prompt is not among the decoder's keys and values.
  in_cache = 0 if "encoder_input_tokens" in batch else 1
  needed = [max_new_tokens + in_cache * bucket for bucket in buckets]
  places = None
  if slots is not None:
    places = Places(len(occupants), max(needed), slots)
  while queue or (occupants >= 0).any():
    for place in np.flatnonzero(occupants < 0)[: len(queue)]:
      if places is not None and not places.reserve(place, needed[queue[0]]):
        break  # Until a text has ended.
      occupants[place] = index = queue.popleft()
      places_BS = None if places is None else places.of_rows.copy()
      pool = _admit(
        model, params, pool, _cut(prompts[index]), place, row_ids[index],
        places_BS, given, settings=settings, length=length,
      )  # fmt: skip
    pool = _run(
      model, params, pool, occupants >= 0, bool(queue), given,
      settings=settings,
    )  # fmt: skip
    ended = np.flatnonzero((occupants >= 0) & np.asarray(pool.done_B))
    for kept, found in zip(
      jax.tree.leaves(results), jax.tree.leaves(pool.generated), strict=True
    ):
      kept[occupants[ended]] = np.asarray(found)[ended]
    occupants[ended] = -1
    if places is not None:
      places.free(ended)
  return results


class _Settings(NamedTuple):
  max_new_tokens: int
  sampler: Sampler
  constraints: Constraints
  caching: Caching


class _Given(NamedTuple):
  key: jax.Array
  end_ids: jax.Array
  drawable: np.ndarray | None
  stops: Stops | None


class _Pool(NamedTuple):
  """The rows that are being decoded.

  Attributes:
    state: the model's DecodeState.
    last_B: the newest token of each row, not read yet.
    done_B: the rows that have ended, or are free.
    generated: the tokens of each row so far.
    row_ids_B: what makes each row's samples its own.
    prompts, limit_B: as of Request.
  """

  state: Any
  last_B: jax.Array
  done_B: jax.Array
  generated: Generated
  row_ids_B: jax.Array
  prompts: Texts
  limit_B: jax.Array

  def choices(self, model, params, given, settings) -> Choices:
    """Returns what the rows may choose."""
    fold_in = jax.vmap(jax.random.fold_in, (None, 0))
    request = Request(
      model=model,
      params=params,
      batch={},
      row_keys_B=fold_in(given.key, self.row_ids_B),
      is_padding_B=self.row_ids_B < 0,
      max_new_tokens=settings.max_new_tokens,
      prompts=self.prompts,
      limit_B=self.limit_B,
      end_ids=given.end_ids,
      drawable=given.drawable,
      constraints=settings.constraints,
      caching=settings.caching,
      draft_params=None,
      stops=given.stops,
    )
    return Choices(request, settings.sampler, model.transformer.vocab_size)


def _span(prompt) -> tuple[str, int, int, int]:
  """Returns the side of a prompt, its first column, length and bucket."""
  if "encoder_input_tokens" in prompt:
    side, ids = "encoder", prompt["encoder_input_tokens"]
    real = prompt.get("encoder_segment_ids", ids) != 0
  else:
    side, real = "decoder", prompt["decoder_causal_attention"] > 0
  columns = np.flatnonzero(real) if real.any() else np.zeros(1, int)
  first, length = int(columns[0]), int(columns[-1] - columns[0] + 1)
  bucket = max(_SMALLEST_BUCKET, 1 << (length - 1).bit_length())
  return side, first, length, min(bucket, len(real))


def _cut(prompt):
  """Returns a batch of one prompt, its padding cut to the bucket."""
  side, first, length, bucket = _span(prompt)
  return {
    name: np.pad(x[first : first + length], (0, bucket - length))[None]
    if name.startswith(side)
    else x[None]
    for name, x in prompt.items()
  }


def _start(model, params, prompt, row_id, settings, length):
  """Reads a prompt; returns its logits and a pool of its one row."""
  room, prompts = settings.max_new_tokens, prompt_texts(prompt)
  if "encoder_input_tokens" not in prompt:
    # All buckets make caches of one length.
    further = length - prompt["decoder_input_tokens"].shape[1]
    tokens_BS = jnp.pad(prompts.tokens_BS, [(0, 0), (0, further)])
    room, prompts = room + further, prompts._replace(tokens_BS=tokens_BS)
  logits_BV, state = model.prefill(
    params, prompt, max_new_tokens=room, caching=settings.caching
  )
  zeros_B = jnp.zeros(logits_BV.shape[0], jnp.int32)
  limits_B = row_limits(prompts, settings.max_new_tokens, settings.constraints)
  return logits_BV, _Pool(
    model.roll_back(state, zeros_B),  # A slot of each row.
    zeros_B, zeros_B > 0,
    Generated.empty(len(zeros_B), settings.max_new_tokens),
    zeros_B + row_id, prompts, limits_B,
  )  # fmt: skip


def _empty_pool(model, params, widest, rows, settings, length, slots):
  """Returns a pool of `rows` free places for prompts up to the widest."""
  widest = {
    name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype)
    for name, x in _cut(widest).items()
  }

  def start(params, prompt):
    pool = _start(model, params, prompt, 0, settings, length)[1]
    if slots is None:
      return pool
    return pool._replace(state=pool.state.pooled(slots))

  shapes = jax.eval_shape(start, params, widest)
  pool = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return pool._replace(done_B=jnp.ones(rows, bool))


@functools.partial(
  jax.jit,
  static_argnums=0,
  static_argnames=("settings", "length"),
  donate_argnums=2,
)
def _admit(
  model, params, pool, prompt, place, row_id, places_BS, given, *, settings,
  length,
):  # fmt: skip
  """Reads a prompt into a free place and draws its first token."""
  logits_BV, row = _start(model, params, prompt, row_id, settings, length)
  choices = row.choices(model, params, given, settings)
  row = _extended(row, choices, logits_BV)

  def put(old, new):
    return jax.lax.dynamic_update_slice_in_dim(old, new, place, axis=0)

  others = jax.tree.map(
    put, pool._replace(state=None), row._replace(state=None)
  )
  return others._replace(state=pool.state.put_row(row.state, place, places_BS))


@functools.partial(
  jax.jit, static_argnums=0, static_argnames="settings", donate_argnums=2
)
def _run(model, params, pool, is_taken_B, has_next, given, *, settings):
  """Decodes until a row has ended whose place is wanted, or all have."""
  choices = pool.choices(model, params, given, settings)

  def goes_on(pool):
    # Rows may be free although prompts wait: for slots.
    has_ended = jnp.any(is_taken_B & pool.done_B)
    return jnp.any(is_taken_B & ~pool.done_B) & ~(has_next & has_ended)

  def body(pool):
    reads_B = (~pool.done_B).astype(jnp.int32)
    logits_B1V, state = model.decode_tokens(
      params, pool.state, pool.last_B[:, None], lengths_B=reads_B
    )
    return _extended(pool._replace(state=state), choices, logits_B1V[:, 0])

  return jax.lax.while_loop(goes_on, body, pool)


def _extended(pool, choices, logits_BV):
  """Draws a token for each row that has not ended."""
  step_B, logits_B1V = pool.generated.lengths, logits_BV[:, None]
  allowed_B1V = choices.allow(
    logits_B1V, pool.generated.tokens, step_B[:, None]
  )
  # A row for which no token is left ends, as in `generate`.
  done_B = pool.done_B | (jnp.max(allowed_B1V[:, 0], axis=-1) == -jnp.inf)
  token_B = choices.draw(allowed_B1V[:, 0], step_B)
  generated, _, done_B = choices.append(
    pool.generated, logits_B1V, token_B[:, None], jnp.ones_like(step_B), done_B
  )  # fmt: skip
  return pool._replace(last_B=token_B, done_B=done_B, generated=generated)
