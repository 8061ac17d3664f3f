"""Mixture of experts: a router sends each token to a few of many MLPs.

    tokens choose    Switch (one expert), GShard, GLaM and Mixtral (two)
    experts choose   each expert takes the tokens that it scores highest

An expert has room for `capacity` tokens of a row. Where tokens choose, those
who come later in the row find it full and pass by, so that what is later never
changes what is earlier. Padding goes to no expert.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite.nn import checks
from t5x_lite.nn.feedforward import MLP
from t5x_lite.nn.linear import Dense, FanIn, Init
from t5x_lite.nn.visibility import Tokens

CHOOSERS = ("tokens", "experts")


class MoE(nn.Module):
  """Replaces a feed-forward layer by experts behind a router.

  Fedus et al. 2021 (Switch), arXiv:2101.03961; Du et al. 2021 (GLaM),
  arXiv:2112.06905; Jiang et al. 2024 (Mixtral), arXiv:2401.04088; Zhou et al.
  2022 (expert choice), arXiv:2202.09368.

  Sows into the collection "losses", when it is asked for: the auxiliary loss
  of this layer, a scalar that is added to the loss per token.

  Attributes:
    expert: the settings that all experts share.
    num_experts: E.
    top_k: experts per token; where experts choose, on average.
    capacity_factor: room of an expert over its fair share of a row,
      top_k * T / E; None makes room for all, at E / top_k times the FLOPs.
    expert_capacity: instead, room for so many tokens of a row of any length.
    chooser: "tokens" or "experts"; experts see the whole row, so only an
      encoder may have them choose.
    normalize_gates: whether a token's gates sum to 1 (GShard, Mixtral) or are
      the router's probabilities (Switch).
    shared_expert: an MLP that every token passes beside its experts, or None
      (Dai et al. 2024, arXiv:2401.06066).
    balance_loss: weight of E * sum_e f_e P_e (Switch, Eq. 4): f the share of
      tokens sent to an expert, P the router's mean probability.
    router_z_loss: weight of the mean squared log-sum-exp of the router's
      logits (Zoph et al. 2022, arXiv:2202.08906, Eq. 5).
    jitter: the router's input is multiplied by 1 +- this in training.
    kernel_init: how the router starts.
  """

  expert: MLP
  num_experts: int
  top_k: int = 1
  capacity_factor: float | None = None
  expert_capacity: int | None = None
  chooser: str = "tokens"
  normalize_gates: bool = False
  shared_expert: MLP | None = None
  balance_loss: float = 0.0
  router_z_loss: float = 0.0
  jitter: float = 0.0
  kernel_init: Init = FanIn()

  def __post_init__(self):
    checks.at_least_one(self, "num_experts", "top_k", "expert_capacity")
    if self.top_k > self.num_experts:
      raise ValueError(
        f"MoE.top_k ({self.top_k}) must be at most num_experts "
        f"({self.num_experts})"
      )
    if self.capacity_factor is not None and self.capacity_factor <= 0:
      raise ValueError(
        f"MoE.capacity_factor ({self.capacity_factor}) must be above 0, or None"
      )
    if self.capacity_factor is not None and self.expert_capacity is not None:
      raise ValueError(
        f"MoE.capacity_factor ({self.capacity_factor}) and expert_capacity "
        f"({self.expert_capacity}) are two ways to say the same: choose one"
      )
    if self.chooser not in CHOOSERS:
      raise ValueError(
        f"unknown MoE.chooser {self.chooser!r}: use one of "
        f"{', '.join(CHOOSERS)}"
      )
    super().__post_init__()

  def capacity(self, length: int) -> int:
    """Returns how many tokens of a row of `length` an expert has room for."""
    if self.expert_capacity is not None:
      return min(length, self.expert_capacity)
    if self.capacity_factor is None:
      return length
    share = self.top_k * length / self.num_experts
    return min(length, max(1, math.ceil(self.capacity_factor * share)))

  @nn.compact
  def __call__(self, x_BTD: jax.Array, tokens: Tokens) -> jax.Array:
    """Transforms each token by the experts that it is sent to."""
    real_BT = jnp.broadcast_to(tokens.segment != 0, x_BTD.shape[:2])
    probs_BTE = self._route(x_BTD, real_BT)
    choose = _tokens_choose if self.chooser == "tokens" else _experts_choose
    room = self.capacity(x_BTD.shape[1])
    places_BEC, gates_BEC = choose(self, probs_BTE, room)
    # [B, E, C, D]: what stands in the places; gate 0 marks an empty one.
    taken = jax.vmap(lambda x, places: x[places])(x_BTD, places_BEC)
    taken = nn.with_logical_constraint(
      taken, ("batch", "experts", None, "embed")
    )
    experts = nn.vmap(
      lambda expert, x: expert(x, tokens),
      in_axes=1,
      out_axes=1,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      metadata_params={nn.PARTITION_NAME: "experts"},
    )
    given = experts(self.expert.copy(name="experts"), taken)
    given *= gates_BEC[..., None].astype(given.dtype)
    out_BTD = jax.vmap(
      lambda places, y: jnp.zeros(x_BTD.shape[1:], y.dtype).at[places].add(y)
    )(places_BEC, given)
    if self.shared_expert is not None:
      out_BTD += self.shared_expert(x_BTD, tokens)
    return out_BTD

  def _route(self, x_BTD, real_BT):
    """Returns the router's float32 probabilities, 0 for padding."""
    # float32: rounding here would send tokens elsewhere (Switch, section 2.4).
    x_BTD = x_BTD.astype(jnp.float32)
    if self.jitter and self.has_rng("dropout"):
      key = self.make_rng("dropout")
      bounds = {"minval": 1 - self.jitter, "maxval": 1 + self.jitter}
      x_BTD *= jax.random.uniform(key, x_BTD.shape, **bounds)
    logits_BTE = Dense(
      (x_BTD.shape[-1],), (self.num_experts,), ("embed", "router"),
      kernel_init=self.kernel_init, name="router",
    )(x_BTD)  # fmt: skip
    probs_BTE = jax.nn.softmax(logits_BTE, axis=-1) * real_BT[..., None]
    self.sow("losses", "moe", self._loss(logits_BTE, probs_BTE, real_BT))
    return probs_BTE

  def _loss(self, logits_BTE, probs_BTE, real_BT):
    number = jnp.maximum(jnp.sum(real_BT), 1)
    log_z_BT = jax.nn.logsumexp(logits_BTE, axis=-1)
    loss = self.router_z_loss * jnp.sum(jnp.square(log_z_BT) * real_BT) / number
    if self.chooser == "tokens":
      chosen_BTE = _top(probs_BTE, self.top_k) * real_BT[..., None]
      sent_E = jnp.sum(chosen_BTE, axis=(0, 1)) / number
      mean_E = jnp.sum(probs_BTE, axis=(0, 1)) / number
      balance = self.num_experts * jnp.sum(sent_E * mean_E)
      loss += self.balance_loss * balance
    return loss


def _top(probs_BTE, k):
  """Marks each token's k likeliest experts with 1."""
  _, chosen_BTk = jax.lax.top_k(probs_BTE, k)
  return jax.nn.one_hot(chosen_BTk, probs_BTE.shape[-1]).sum(axis=-2)


def _tokens_choose(moe, probs_BTE, capacity):
  """Returns each expert's tokens and their gates, [B, E, C]."""
  length = probs_BTE.shape[1]
  gates_BTE = probs_BTE * _top(probs_BTE, moe.top_k)
  sent_BTE = gates_BTE > 0
  if moe.normalize_gates:
    total_BT1 = jnp.sum(gates_BTE, axis=-1, keepdims=True)
    gates_BTE /= jnp.maximum(total_BT1, 1e-9)
  # The tokens sent to an expert come first, in their order in the row.
  order_BTE = jnp.where(sent_BTE, 0, length) + jnp.arange(length)[:, None]
  places_BEC = jnp.argsort(order_BTE, axis=1)[:, :capacity].swapaxes(1, 2)
  gates_BEC = jnp.take_along_axis(gates_BTE.swapaxes(1, 2), places_BEC, axis=2)
  return places_BEC, gates_BEC


def _experts_choose(moe, probs_BTE, capacity):
  """Returns each expert's tokens and their gates, [B, E, C]."""
  del moe
  gates_BEC, places_BEC = jax.lax.top_k(probs_BTE.swapaxes(1, 2), capacity)
  return places_BEC, gates_BEC
