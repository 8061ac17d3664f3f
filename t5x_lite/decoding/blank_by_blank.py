"""BlankByBlank: fills blanks from left to right, as GLM is trained to."""

import dataclasses

import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.decoding.request import DrawsBy, Generated, Request, Sampler
from t5x_lite.decoding.samplers import Greedy


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlankByBlank(DrawsBy):
  """Generates what fills the blanks of a text, one after the other.

    prompt, part A     a [M] d [M]      blanks at positions 1 and 3
    read in part B     S b c S e        S is the start token
    generated          b c $ e $        $ ends a blank
    position           1 1 1 3 3        of the blank
    within the blank   1 2 3 1 2

  The blanks are where `decoder_loss_weights` are 1. A row ends with its last
  blank. Du et al. 2022 (GLM), arXiv:2103.10360, section 2.1.

  Attributes:
    start_id: the token that is read before the first of each blank.
    sampler: chooses tokens.
  """

  start_id: checks.Whole = 0
  sampler: Sampler = Greedy()

  def __post_init__(self):
    checks.fields(self)

  def search(self, request: Request) -> Generated:
    """Fills the blanks; `request.model` has a `DecodeState`, as `Model` has."""
    batch = request.batch
    is_blank_BT = batch["decoder_loss_weights"] > 0
    count_B = jnp.sum(is_blank_BT, axis=1, dtype=jnp.int32)
    # The positions of the blanks come first.
    order_BT = jnp.argsort(~is_blank_BT, axis=1, stable=True)
    places_BT = jnp.take_along_axis(batch["decoder_positions"], order_BT, 1)
    _, state = request.prefill()

    def unfinished(carry):
      step, *_, done_B, _ = carry
      return (step < request.max_new_tokens) & ~jnp.all(done_B)

    def body(carry):
      step, state, read_B, blank_B, inside_B, done_B, generated = carry
      place_B1 = jnp.take_along_axis(places_BT, blank_B[:, None], axis=1)
      logits_BV, state = request.step(
        _within(state, place_B1, inside_B[:, None]), read_B
      )
      tokens_B, done_B, generated = request.emit(
        self.sampler, step, logits_BV, done_B, generated
      )
      is_end_B = jnp.isin(tokens_B, request.end_ids)
      done_B |= is_end_B & (blank_B + 1 >= count_B)
      return (
        step + 1,
        state,
        jnp.where(is_end_B, self.start_id, tokens_B),
        jnp.minimum(blank_B + is_end_B, count_B - 1),
        jnp.where(is_end_B, 1, inside_B + 1),
        done_B,
        generated,
      )

    zeros_B = jnp.zeros_like(count_B)
    return jax.lax.while_loop(
      unfinished,
      body,
      (
        jnp.int32(0),
        _within(state, zeros_B[:, None], zeros_B[:, None]),
        zeros_B + self.start_id,
        zeros_B,
        zeros_B + 1,
        request.is_padding_B | (count_B == 0),
        Generated.empty(len(count_B), request.max_new_tokens),
      ),
    )[-1]


def _within(state, place_B1, inside_B1):
  """Returns the state whose next token stands within a blank."""
  features = {**state.next.features, "block_positions": inside_B1}
  following = state.next._replace(position=place_B1, features=features)
  return state._replace(next=following)
