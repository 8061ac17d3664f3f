"""Beam search: keeps the most probable beginnings of a text, several a row."""

import dataclasses
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.decoding.forced import Forced, forced_candidates
from t5x_lite.decoding.request import Generated, Request
from t5x_lite.decoding.samplers import Sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beam:
  """Searches for the text of the highest score, with `num_beams` at a time.

  A text's score is its log probability, constraints applied, divided by

    length ** length_penalty               length_norm="power"
    ((5 + length) / 6) ** length_penalty   length_norm="gnmt"

  with the end token counted. Tokens, scores and the end of the search are those
  of `transformers` 5, whose options have these names; "gnmt" is Wu et al. 2016,
  arXiv:1609.08144, eq. 14, which T5X has as brevity penalty.

  Attributes:
    num_beams: how many beginnings are kept, W.
    length_penalty: above 0 favours longer texts.
    early_stopping: when a row's search ends: once W texts have ended (True);
      once no beginning, at its present length, has a better score than the
      worst of the W (False), or at any length ("never").
    sample: draws continuations from what this leaves of the probabilities,
      without replacement, in place of taking the most probable: beam sampling.
    groups: how many groups of W / groups beams search one after the other at
      each step (Vijayakumar et al. 2016, arXiv:1610.02424, algorithm 1).
    diversity_penalty: subtracted from a continuation's score for every beam of
      an earlier group that goes on with the same token at this step.
    num_return_sequences: how many texts are returned, the best first; None for
      the best alone, without a further dim (`Generated`).
    length_norm: "power" or "gnmt".

  Raises:
    ValueError: a setting is out of range, or two contradict one another.
  """

  num_beams: Annotated[int, checks.Range(1, 1000)] = 4
  length_penalty: Annotated[float, checks.Range(-100, 100)] = 1.0
  early_stopping: bool | Literal["never"] = False
  sample: Sample | None = None
  groups: checks.Count = 1
  diversity_penalty: checks.NotNegative = 0.0
  num_return_sequences: checks.Count | None = None
  length_norm: Literal["power", "gnmt"] = "power"

  def __post_init__(self):
    checks.fields(self)
    if self.num_beams % self.groups:
      raise ValueError(
        f"num_beams ({self.num_beams}) must be divisible by groups "
        f"({self.groups})"
      )
    if self.diversity_penalty and self.groups == 1:
      raise ValueError(
        f"diversity_penalty ({self.diversity_penalty}) is between groups of "
        "beams: set groups to 2 or more"
      )
    if self.sample is not None and self.groups > 1:
      raise ValueError(
        f"groups ({self.groups}) of beams do not sample: set sample=None or "
        "groups=1"
      )
    if (self.num_return_sequences or 1) > self.num_beams:
      raise ValueError(
        f"num_return_sequences ({self.num_return_sequences}) must be at most "
        f"num_beams ({self.num_beams})"
      )

  @property
  def is_random(self) -> bool:
    """Returns whether continuations are drawn."""
    return self.sample is not None

  @property
  def forces_phrases(self) -> bool:
    """Returns whether texts have the forced phrases."""
    return self.sample is None

  def search(self, request: Request) -> Generated:
    """Runs the search; see `generate`."""
    if request.constraints.forced:
      # A string would end texts that have not all phrases yet.
      request = request._replace(stops=None)
    logits_BV, state = request.prefill()
    rows = logits_BV.shape[0]
    copies = jnp.repeat(jnp.arange(rows), self.num_beams)
    # All that differs between the beams of a row comes after the prompt.
    slots = state.slot, request.max_new_tokens
    start, step = self._start(request), jnp.int32(0)
    beams = _extend(self, request, logits_BV[copies], start, step)

    def unfinished(carry):
      _, step, beams = carry
      return (step < request.max_new_tokens) & jnp.any(beams.is_open_BG)

    def body(carry):
      state, step, beams = carry
      state = state.take_rows(beams.origin_R, slots=slots)
      tokens_RT = _flat(beams.running.tokens)
      logits_RV, state = request.step(state, tokens_RT[:, step - 1])
      return state, step + 1, _extend(self, request, logits_RV, beams, step)

    carry = (state.take_rows(copies), step + 1, beams)
    finished = jax.lax.while_loop(unfinished, body, carry)[-1].finished
    merged = jax.tree.map(
      lambda x: x.reshape(rows, self.num_beams, *x.shape[3:]), finished
    )
    _, best_BN = jax.lax.top_k(merged.scores, self.num_return_sequences or 1)
    best = _take(merged, best_BN)
    if self.num_return_sequences is None:
      return jax.tree.map(lambda x: x[:, 0], best)
    return best

  def _start(self, request):
    rows, length = request.limit_B.shape[0], request.max_new_tokens
    shape = (rows, self.groups, self.num_beams // self.groups)
    none = Generated(
      tokens=jnp.zeros((*shape, length), jnp.int32),
      lengths=jnp.zeros(shape, jnp.int32),
      log_probs=jnp.zeros((*shape, length), jnp.float32),
      scores=jnp.full(shape, -jnp.inf),
    )
    # The first beam of a group alone, as all begin with the same prompt.
    running = none._replace(scores=none.scores.at[..., 0].set(0.0))
    is_open_BG = jnp.broadcast_to(~request.is_padding_B[:, None], shape[:2])
    origin_R = jnp.arange(rows * self.num_beams)
    return _Beams(running, none, is_open_BG, origin_R)

  def normed(self, scores: jax.Array, length: jax.Array) -> jax.Array:
    """Returns sums of log probabilities divided by the length's norm."""
    length = length.astype(jnp.float32)
    if self.length_norm == "gnmt":
      length = (5 + length) / 6
    return scores / length**self.length_penalty


class _Beams(NamedTuple):
  """What a search has found so far; G groups of W beams a row.

  running: beginnings, [B, G, W, ...]; scores are sums of log probabilities, and
    -inf where there is no beginning.
  finished: the best texts that ended, in order; their scores are normed.
  is_open_BG: where the search goes on.
  origin_R: the beam that each running one continues, of all R = B * G * W.
  """

  running: Generated
  finished: Generated
  is_open_BG: jax.Array
  origin_R: jax.Array


def _extend(
  beam: Beam,
  request: Request,
  logits_RV: jax.Array,
  beams: _Beams,
  step: jax.Array,
) -> _Beams:
  """Continues every beginning by a token."""
  rows, groups, width = beams.running.scores.shape
  log_probs_RV = jax.nn.log_softmax(logits_RV.astype(jnp.float32))
  allowed_RV = request.allow(log_probs_RV, _flat(beams.running.tokens), step)
  if beam.sample is not None:
    allowed_RV = beam.sample.truncated(allowed_RV)

  def of_groups(x_RV):
    return x_RV.reshape(rows, groups, width, -1)

  log_probs, allowed = of_groups(log_probs_RV), of_groups(allowed_RV)
  counts_BV = jnp.zeros((rows, logits_RV.shape[-1]))
  found = []
  for g in range(groups):
    of_group = _Beams(
      running=_of_group(beams.running, g),
      finished=_of_group(beams.finished, g),
      is_open_BG=beams.is_open_BG[:, g],
      origin_R=None,
    )
    penalty_BV = beam.diversity_penalty * counts_BV
    allowed_BWV = allowed[:, g] - penalty_BV[:, None]
    new = _extend_group(
      beam, request, allowed_BWV, log_probs[:, g], of_group, step
    )
    found.append(new)
    chosen_BW = new.running.tokens[:, :, step]
    counts_BV = counts_BV.at[jnp.arange(rows)[:, None], chosen_BW].add(1.0)
  together = jax.tree.map(lambda *x: jnp.stack(x, axis=1), *found)
  first_beam_BG = jnp.arange(rows * groups).reshape(rows, groups) * width
  origin_BGW = first_beam_BG[..., None] + together.origin_R
  return together._replace(origin_R=origin_BGW.reshape(-1))


def _extend_group(beam, request, allowed_BWV, log_probs_BWV, beams, step):
  """Continues the beams of one group; `origin_R` is [B, W], within it."""
  running, finished = beams.running, beams.finished
  rows, width, vocab_size = allowed_BWV.shape
  scores_BN = (running.scores[..., None] + allowed_BWV).reshape(rows, -1)
  # So many that `width` go on even if all end tokens are among the best.
  kept = width * max(2, 1 + request.end_ids.shape[0])
  kept = min(kept, scores_BN.shape[1])
  order_BN = scores_BN
  if beam.sample is not None:
    # The largest of log p + Gumbel noise are a sample without replacement (Kool
    # et al. 2019, arXiv:1903.06059, section 2).
    noise = jax.vmap(lambda key: jax.random.gumbel(key, scores_BN.shape[1:]))
    order_BN = scores_BN + noise(request.keys(step))
  constraints = request.constraints
  if constraints.forced:
    left_B = request.limit_B - step - 1 - (constraints.last is not None)
    choice_BC, is_usable_BC = forced_candidates(
      Forced(constraints.forced), scores_BN.reshape(allowed_BWV.shape),
      running.tokens, step, jnp.maximum(left_B, 0), request.end_ids, kept,
    )  # fmt: skip
    kept = choice_BC.shape[1]
  else:
    _, choice_BC = jax.lax.top_k(order_BN, kept)
    is_usable_BC = True
  scores_BC = jnp.take_along_axis(scores_BN, choice_BC, axis=1)
  scores_BC = jnp.where(is_usable_BC, scores_BC, -jnp.inf)
  origin_BC, token_BC = choice_BC // vocab_size, choice_BC % vocab_size
  log_probs_BC = jnp.take_along_axis(
    log_probs_BWV.reshape(rows, -1), choice_BC, axis=1
  )
  is_here_T = jnp.arange(request.max_new_tokens) == step
  candidates = Generated(
    tokens=jnp.where(
      is_here_T, token_BC[..., None], _take(running.tokens, origin_BC)
    ),
    lengths=jnp.broadcast_to(step + 1, token_BC.shape),
    log_probs=jnp.where(
      is_here_T, log_probs_BC[..., None], _take(running.log_probs, origin_BC)
    ),
    scores=scores_BC,
  )
  tokens_NT = candidates.tokens.reshape(-1, request.max_new_tokens)
  ended_BC = request.ends(tokens_NT, step).reshape(token_BC.shape)
  ended_BC |= step + 1 >= request.limit_B[:, None]

  going_BC = jnp.where(ended_BC, -jnp.inf, scores_BC)
  preference_BC = going_BC
  if constraints.forced:  # They are in order.
    preference_BC = jnp.where(going_BC > -jnp.inf, -jnp.arange(kept), -jnp.inf)
  _, next_BW = jax.lax.top_k(preference_BC, width)
  going_BW = jnp.take_along_axis(going_BC, next_BW, axis=1)
  running = _take(candidates, next_BW)._replace(scores=going_BW)
  origin_BW = _take(origin_BC, next_BW)

  # Further candidates stand in for those that ended; they do not end.
  counts_BC = ended_BC & (jnp.arange(kept) < width) & beams.is_open_BG[:, None]
  normed_BC = beam.normed(scores_BC, step + 1)
  ended = candidates._replace(scores=jnp.where(counts_BC, normed_BC, -jnp.inf))
  # Of equal scores, -inf among them, the earlier come first.
  both = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), finished, ended)
  _, best_BW = jax.lax.top_k(both.scores, width)
  finished = _take(both, best_BW)

  length_B = jnp.broadcast_to(step + 1, rows)
  if beam.early_stopping == "never" and beam.length_penalty > 0:
    length_B = request.limit_B
  best_B = beam.normed(jnp.max(going_BW, axis=1), length_B)
  is_open_B = beams.is_open_BG & (best_B > jnp.min(finished.scores, axis=1))
  if beam.early_stopping is True:
    is_open_B &= jnp.min(finished.scores, axis=1) == -jnp.inf
  return _Beams(running, finished, is_open_B, origin_BW)


def _take(tree: Any, index_BN: jax.Array) -> Any:
  """Returns x[b, index[b, n]] for each b and n, of each array x."""

  def take(x):
    index = index_BN.reshape(*index_BN.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1)

  return jax.tree.map(take, tree)


def _of_group(tree: Any, g: int) -> Any:
  return jax.tree.map(lambda x: x[:, g], tree)


def _flat(x_BGWT: jax.Array) -> jax.Array:
  return x_BGWT.reshape(-1, x_BGWT.shape[-1])
