"""Mixture of experts: a router sends each token to a few of many MLPs.

    tokens choose    Switch (one expert), GShard, GLaM and Mixtral (two)
    experts choose   each expert takes the tokens that it scores highest

In training an expert has a capacity: so many tokens of a row, in proportion to
its real ones. Where tokens choose, those later in the row find the expert full
and skip it, so that later tokens never change earlier ones. Padding goes to no
expert and does not count.

Without a "dropout" key, that is outside training (dropout.py), no token is
dropped: the output for a text depends neither on padding, nor on other texts in
its row, nor on other rows. Experts then work in rounds of as many tokens as
their capacity in training, until all tokens are done:

    capacity 2, sent to one expert   a b c d e   ->   a b | c d | e

That takes the memory of one round. Of T tokens there are up to T / capacity
rounds, E / (top_k * capacity_factor) times the FLOPs of training; rounds in
which no expert has work, usually all but one or two, are skipped.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.nn.attention_rules import AttentionRule, Full, TokenInfo
from t5x_lite.nn.feedforward import MLP, FeedForward
from t5x_lite.nn.linear import Dense, FanIn, Init

ROUTINGS = ("token_choice", "expert_choice")


class MoE(FeedForward):
  """Replaces a feed-forward layer by experts behind a router.

  Fedus et al. 2021 (Switch), arXiv:2101.03961; Du et al. 2021 (GLaM),
  arXiv:2112.06905; Jiang et al. 2024 (Mixtral), arXiv:2401.04088; Zhou et al.
  2022 (expert choice), arXiv:2202.09368.

  Sows its auxiliary loss into the collection "losses", as "sum" over the real
  tokens and "weight", their number; the mean is added to the loss. Tokens are
  balanced within each text (DeepSeek-AI 2024, arXiv:2412.19437, Eq. 17-20), so
  that the loss is the same however texts are packed and a batch is cut.

  Attributes:
    expert: an MLP, copied for each expert.
    num_experts: E.
    top_k: experts per token; where experts choose, on average.
    capacity_factor: capacity of an expert in training over its fair share of
      the N real tokens of a row, top_k * N / E; None drops no token, at
      E / top_k times the FLOPs.
    expert_capacity: instead, a fixed number of tokens of each text, in training
      or not, as `transformers` has it for Switch. (Decoding takes one token at
      a time, and drops none.)
    routing: "token_choice" or "expert_choice". Under the latter each expert
      chooses in each text by itself, by `capacity_factor` of its length, in
      training or not. It reads the whole text, so it is for encoders alone; in
      training, what is chosen in a packed row beyond the row's capacity is
      dropped.
    normalize_gates: whether a token's gates sum to 1 (GShard, Mixtral) or are
      the router's probabilities (Switch).
    shared_expert: an MLP that every token also goes through, or None (Dai et
      al. 2024, arXiv:2401.06066).
    balance_loss: weight of E * sum_e f_e P_e (Switch, Eq. 4): f the share of a
      text's tokens sent to an expert, P the router's mean probability of it.
    router_z_loss: weight of the mean squared log-sum-exp of the router's
      logits (Zoph et al. 2022, arXiv:2202.08906, Eq. 5).
    jitter: the router's input is multiplied by 1 +- this in training.
    kernel_init: initialises the router.
  """

  expert: MLP
  num_experts: checks.Count
  top_k: checks.Count = 1
  capacity_factor: checks.Positive | None = None
  expert_capacity: checks.Count | None = None
  routing: str = "token_choice"
  normalize_gates: bool = False
  shared_expert: MLP | None = None
  balance_loss: checks.NotNegative = 0.0
  router_z_loss: checks.NotNegative = 0.0
  jitter: checks.Share = 0.0
  kernel_init: Init = FanIn()

  def __post_init__(self):
    checks.fields(self)
    if self.top_k > self.num_experts:
      raise ValueError(
        f"MoE.top_k ({self.top_k}) must be at most num_experts "
        f"({self.num_experts})"
      )
    if self.capacity_factor is not None and self.expert_capacity is not None:
      raise ValueError(
        f"MoE.capacity_factor ({self.capacity_factor}) and expert_capacity "
        f"({self.expert_capacity}) both set an expert's capacity: choose one"
      )
    checks.one_of(self, "routing", ROUTINGS)
    super().__post_init__()

  def check(self, rule: AttentionRule):
    if self.routing == "expert_choice" and not isinstance(rule, Full):
      raise ValueError(
        "MoE.routing='expert_choice' reads the whole row, so that a decoder "
        "would see what it predicts: use routing='token_choice'"
      )

  def capacity(self, length: int) -> int:
    """Returns an expert's capacity in tokens for a row of `length`."""
    if self.expert_capacity is not None:
      return min(length, self.expert_capacity)
    if self.capacity_factor is None:
      return length
    share = self.top_k * length / self.num_experts
    return min(length, max(1, math.ceil(self.capacity_factor * share)))

  @nn.compact
  def __call__(self, x_BTD: jax.Array, tokens: TokenInfo) -> jax.Array:
    """Transforms each token by the experts that it is sent to."""
    segment_BT = jnp.broadcast_to(tokens.segment, x_BTD.shape[:2])
    probs_BTE = self._route(x_BTD, segment_BT)
    choose = (
      _tokens_choose if self.routing == "token_choice" else _experts_choose
    )
    gates_BTE = choose(self, probs_BTE, segment_BT)
    out_BTD = self._dispatch(x_BTD, gates_BTE, tokens)
    if self.shared_expert is not None:
      out_BTD += self.shared_expert(x_BTD, tokens)
    return out_BTD

  @property
  def in_training(self) -> bool:
    """Whether experts have a limited capacity (dropout.py)."""
    return self.has_rng("dropout")

  def _dispatch(self, x_BTD, gates_BTE, tokens):
    """Sends tokens to the experts whose gates are open, in rounds."""
    length = x_BTD.shape[1]
    room = self.capacity(length)
    one_round = self.in_training or self.is_initializing()
    number = 1 if one_round else -(-length // room)
    # The tokens sent to an expert come first, in their order in the row.
    waits_BTE = jnp.where(gates_BTE > 0, 0, length)
    waits_BTE += jnp.arange(length)[:, None]
    places_BTE = jnp.argsort(waits_BTE, axis=1)
    gates_BTE = jnp.take_along_axis(gates_BTE, places_BTE, axis=1)

    def cut(y_BTE):
      """[B, T, E] -> [number, B, E, C]; what is beyond the row has gate 0."""
      y_BTE = y_BTE[:, : number * room]
      rest = number * room - y_BTE.shape[1]
      y_BTE = jnp.pad(y_BTE, ((0, 0), (0, rest), (0, 0)))
      y_BRCE = y_BTE.reshape(len(y_BTE), number, room, -1)
      return y_BRCE.transpose(1, 0, 3, 2)

    def work(experts, out_BTD, places_BEC, gates_BEC):
      # [B, E, C, D]
      taken = jax.vmap(lambda x, places: x[places])(x_BTD, places_BEC)
      taken = nn.with_logical_constraint(
        taken, ("batch", "experts", None, "embed")
      )
      given = experts(taken)
      given *= gates_BEC[..., None].astype(given.dtype)
      return jax.vmap(lambda out, places, y: out.at[places].add(y))(
        out_BTD, places_BEC, given
      )

    rounds = cut(places_BTE), cut(gates_BTE)
    out_BTD = jnp.zeros_like(x_BTD)
    if number == 1:
      experts = self._experts(tokens)
      return work(experts, out_BTD, *(x[0] for x in rounds))
    experts = self._pure_experts(tokens)

    def work_if_any(out_BTD, assigned):
      out_BTD = jax.lax.cond(
        jnp.any(assigned[1] > 0),
        functools.partial(work, experts), lambda out, *_: out,
        out_BTD, *assigned,
      )  # fmt: skip
      return out_BTD, None

    return jax.lax.scan(work_if_any, out_BTD, rounds)[0]

  def _experts(self, tokens):
    """Returns what all experts make of [B, E, C, D]."""
    experts = nn.vmap(
      lambda expert, x: expert(x, tokens),
      in_axes=1,
      out_axes=1,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      metadata_params={nn.PARTITION_NAME: "experts"},
    )
    return functools.partial(experts, self.expert.copy(name="experts"))

  def _pure_experts(self, tokens):
    """Returns the same as a pure function, which JAX's loops may close over.

    Without random keys, and once there are parameters.
    """
    # Of NumPy's, tracing a custom derivative in a loop takes no constants.
    params = jax.tree.map(
      jnp.asarray, nn.unbox(self.get_variable("params", "experts"))
    )
    expert = self.expert.clone(parent=None, name=None)
    apply = jax.vmap(
      lambda one, x: expert.apply({"params": one}, x, tokens), (0, 1), 1
    )
    return functools.partial(apply, params)

  def _route(self, x_BTD, segment_BT):
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
    real_BT1 = (segment_BT != 0)[..., None]
    probs_BTE = jax.nn.softmax(logits_BTE, axis=-1) * real_BT1
    self.sow("losses", "moe", self._loss(logits_BTE, probs_BTE, segment_BT))
    return probs_BTE

  def _loss(self, logits_BTE, probs_BTE, segment_BT):
    real_BT = segment_BT != 0
    log_z_BT = jax.nn.logsumexp(logits_BTE, axis=-1)
    loss_BT = self.router_z_loss * jnp.square(log_z_BT)
    if self.routing == "token_choice":
      sent_BTE = _text_means(_top(probs_BTE, self.top_k), segment_BT)
      mean_BTE = _text_means(probs_BTE, segment_BT)
      balance_BT = self.num_experts * jnp.sum(sent_BTE * mean_BTE, axis=-1)
      loss_BT += self.balance_loss * balance_BT
    # Apart, so that the weight can be had without the sum.
    return {"sum": jnp.sum(loss_BT * real_BT), "weight": jnp.sum(real_BT * 1.0)}


def _top(probs_BTE, k):
  """Marks each token's k likeliest experts with 1."""
  _, chosen_BTk = jax.lax.top_k(probs_BTE, k)
  return jax.nn.one_hot(chosen_BTk, probs_BTE.shape[-1]).sum(axis=-2)


def _tokens_choose(moe, probs_BTE, segment_BT):
  """Returns the gates of the experts that take each token, 0 for others."""
  gates_BTE = probs_BTE * _top(probs_BTE, moe.top_k)
  sent_BTE = gates_BTE > 0
  if moe.normalize_gates:
    total_BT1 = jnp.sum(gates_BTE, axis=-1, keepdims=True)
    gates_BTE /= jnp.maximum(total_BT1, 1e-9)
  # Which token to an expert it is, from 1: of its text, or of the row.
  turn_BTE = jnp.cumsum(sent_BTE, axis=1)
  if moe.expert_capacity is not None:
    start_BT1 = _texts(segment_BT)[0][..., None]
    before_BTE = jnp.take_along_axis(turn_BTE - sent_BTE, start_BT1, axis=1)
    return gates_BTE * (turn_BTE - before_BTE <= moe.expert_capacity)
  if moe.capacity_factor is None or not moe.in_training:
    return gates_BTE
  number_B = jnp.sum(segment_BT != 0, axis=1)
  return gates_BTE * (
    turn_BTE <= _room(moe, number_B, segment_BT)[:, None, None]
  )


def _experts_choose(moe, probs_BTE, segment_BT):
  """Returns the gates of the experts that take each token, 0 for others."""
  start_BT, size_BT = _texts(segment_BT)
  start_BTE = jnp.broadcast_to(start_BT[..., None], probs_BTE.shape)
  # Text by text, and in each the likeliest first.
  order_BTE = jnp.lexsort((-probs_BTE, start_BTE), axis=1)
  rank_BTE = jnp.argsort(order_BTE, axis=1) - start_BTE
  room_BT = _room(moe, size_BT, segment_BT)
  return probs_BTE * (rank_BTE < room_BT[..., None])


def _texts(segment_BT):
  """Returns where the text of each token begins and its length, [B, T]."""
  index_T = jnp.arange(segment_BT.shape[1])
  first_B1 = jnp.ones_like(segment_BT[:, :1], bool)
  changes = segment_BT[:, 1:] != segment_BT[:, :-1]
  begins_BT = jnp.concatenate([first_B1, changes], axis=1)
  ends_BT = jnp.concatenate([changes, first_B1], axis=1)
  start_BT = jax.lax.cummax(jnp.where(begins_BT, index_T, 0), axis=1)
  end_BT = jnp.where(ends_BT, index_T, len(index_T))
  end_BT = jax.lax.cummin(end_BT, axis=1, reverse=True)
  return start_BT, end_BT - start_BT + 1


def _text_means(x_BTE, segment_BT):
  """Returns the mean over its text for each token, [B, T, E]."""
  start_BT, size_BT = _texts(segment_BT)
  sums_BTE = jnp.cumsum(x_BTE, axis=1)

  def at(y_BTE, places_BT):
    return jnp.take_along_axis(y_BTE, places_BT[..., None], axis=1)

  total_BTE = at(sums_BTE, start_BT + size_BT - 1) - at(
    sums_BTE - x_BTE, start_BT
  )
  return total_BTE / size_BT[..., None]


def _room(moe, numbers, segment_BT):
  """Returns the capacity for so many real tokens each, of T at most."""
  longest = segment_BT.shape[1]
  table = jnp.array([moe.capacity(n) for n in range(longest + 1)])
  return table[numbers]
