"""EasyFirst: fills the masks of an encoder, the surest first."""

import dataclasses

import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.decoding.constraints import Constraints
from t5x_lite.decoding.request import DrawsBy, Generated, Request, Sampler
from t5x_lite.decoding.samplers import Greedy

# The constraints that have a meaning without an order of tokens.
_HONOURED = ("ends", "suppressed", "max_length", "max_new_tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EasyFirst(DrawsBy):
  """Fills one mask per step, the one whose best token is most probable.

    [M] falls in [M] .      p(Rain) = 0.3, p(spring) = 0.2
    Rain falls in [M] .     p(autumn) = 0.6, now that the rain is known
    Rain falls in autumn .

  The masks are where `encoder_loss_weights` are 1. Results have the tokens in
  the order of the text, and the log probability of each at the step in which it
  was filled in. Easy-first order as in Mansimov et al. 2019, arXiv:1905.12790.

  Attributes:
    sampler: chooses the token of the mask.

  Raises:
    ValueError: when called with constraints that `check_constraints` refuses.
  """

  sampler: Sampler = Greedy()

  def __post_init__(self):
    checks.fields(self)

  def check_constraints(self, constraints: Constraints) -> None:
    """Refuses constraints on the order of tokens, as masks have none."""
    for field in dataclasses.fields(constraints):
      value = getattr(constraints, field.name)
      if field.name not in _HONOURED and value != field.default:
        raise ValueError(
          f"{field.name}={value} has no meaning where masks are filled in, "
          "each with one token: leave it out of the constraints"
        )

  def search(self, request: Request) -> Generated:
    """Fills the masks; `request.model` has `outputs`, as `Model` has."""
    self.check_constraints(request.constraints)
    batch = dict(request.batch)
    ids_BT = batch["encoder_input_tokens"]
    is_mask_BT = batch["encoder_loss_weights"] > 0
    is_mask_BT &= ~request.is_padding_B[:, None]

    def body(carry):
      step, ids_BT, log_probs_BT, is_open_BT = carry
      outputs = request.model.outputs(
        request.params, {**batch, "encoder_input_tokens": ids_BT}
      )

      def choose(of_row):
        # Row by row, so that no logits [B, T, V] are kept.
        states_TD, is_open_T, key = of_row
        logits_TV = outputs.head(states_TD[None])[0].astype(jnp.float32)
        log_probs_TV = jax.nn.log_softmax(logits_TV)
        drawn_TV = _drawn(request, log_probs_TV)
        best_T = jnp.where(is_open_T, jnp.max(drawn_TV, axis=-1), -jnp.inf)
        place = jnp.argmax(best_T)
        token = self.sampler(drawn_TV[place], key)
        return place, token, log_probs_TV[place, token]

      place_B, token_B, log_prob_B = jax.lax.map(
        choose, (outputs.states_BTD, is_open_BT, request.keys(step))
      )
      here_BT = jnp.arange(ids_BT.shape[1]) == place_B[:, None]
      here_BT &= is_open_BT
      return (
        step + 1,
        jnp.where(here_BT, token_B[:, None], ids_BT),
        jnp.where(here_BT, log_prob_B[:, None], log_probs_BT),
        is_open_BT & ~here_BT,
      )

    zeros_BT = jnp.zeros(ids_BT.shape, jnp.float32)
    _, ids_BT, log_probs_BT, _ = jax.lax.while_loop(
      lambda carry: jnp.any(carry[-1]),
      body,
      (jnp.int32(0), ids_BT, zeros_BT, is_mask_BT),
    )
    return _in_order(ids_BT, log_probs_BT, is_mask_BT, request.max_new_tokens)


def _drawn(request, logits_TV):
  """Returns the logits with -inf for the tokens that may not come."""
  logits_TV = request.drawn(logits_TV)
  if request.constraints.suppressed:
    suppressed = jnp.array(request.constraints.suppressed)
    logits_TV = logits_TV.at[:, suppressed].set(-jnp.inf, mode="drop")
  return logits_TV


def _in_order(ids_BT, log_probs_BT, is_mask_BT, size) -> Generated:
  """Returns what was filled in, in the order of the text."""
  places_BT = jnp.argsort(~is_mask_BT, axis=1, stable=True)

  def in_order(x_BT):
    x_BT = jnp.where(is_mask_BT, x_BT, 0)
    x_BT = jnp.take_along_axis(x_BT, places_BT, axis=1)[:, :size]
    return jnp.pad(x_BT, [(0, 0), (0, size - x_BT.shape[1])])

  log_probs_BM = in_order(log_probs_BT)
  return Generated(
    tokens=in_order(ids_BT),
    lengths=jnp.minimum(jnp.sum(is_mask_BT, axis=1, dtype=jnp.int32), size),
    log_probs=log_probs_BM,
    scores=jnp.sum(log_probs_BM, axis=1),
  )
