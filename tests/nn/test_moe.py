"""Mixture of experts against a loop over tokens, and its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import losses
from t5x_lite.nn.attention_rules import Causal, Full, TokenInfo
from t5x_lite.nn.feedforward import MLP, Gated
from t5x_lite.nn.moe import MoE
from t5x_lite.nn.stack import Period, Stack
from tests import tiny

B, T, D, F, E = 2, 6, 5, 7, 3
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
SEGMENT = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def tokens(segment=SEGMENT):
  index = np.broadcast_to(np.arange(segment.shape[1]), segment.shape)
  return TokenInfo(index, index, segment, segment < 0)


def weights(moe, seed=1):
  shapes = jax.eval_shape(moe.init, jax.random.key(0), X, tokens())["params"]
  rng = np.random.default_rng(seed)

  def draw(leaf):
    return rng.normal(size=leaf.value.shape).astype(np.float32)

  return jax.tree.map(draw, shapes, is_leaf=lambda x: hasattr(x, "value"))


def by_loop(params, top_k, *, normalize=False, room=(T, T)):
  """Sends the tokens one by one, in their order in the row.

  Args:
    room: of each expert, for each row.
  """
  logits = X @ params["router"]["kernel"]
  probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  out = np.zeros_like(X)
  for b in range(B):
    filled = np.zeros(E, int)
    for t in range(T):
      if SEGMENT[b, t] == 0:
        continue
      chosen = np.argsort(-probs[b, t])[:top_k]
      total = probs[b, t, chosen].sum() if normalize else 1
      for e in chosen:
        filled[e] += 1
        if filled[e] > room[b]:
          continue
        wi, wo = (params["experts"][n]["kernel"][e] for n in ("wi", "wo"))
        y = np.maximum(X[b, t] @ wi, 0) @ wo
        out[b, t] += probs[b, t, e] / total * y
  return out


def apply(moe, params, x=X, segment=SEGMENT, *, training=False):
  rngs = {"dropout": jax.random.key(0)} if training else {}

  def run(params, x, segment):
    return moe.apply({"params": params}, x, tokens(segment), rngs=rngs)

  return tiny.jit(run)(params, x, segment)


@pytest.mark.parametrize(
  "settings, loop",
  [
    ({}, {"top_k": 1}),
    ({"top_k": 2}, {"top_k": 2}),
    ({"top_k": 2, "normalize_gates": True}, {"top_k": 2, "normalize": True}),
    # Of the 6 and 4 real tokens of the rows.
    ({"capacity_factor": 0.5}, {"top_k": 1, "room": (1, 1)}),
    ({"capacity_factor": 1.0}, {"top_k": 1, "room": (2, 2)}),
    ({"top_k": 2, "capacity_factor": 1.1}, {"top_k": 2, "room": (5, 3)}),
    ({"expert_capacity": 2}, {"top_k": 1, "room": (2, 2)}),
    ({"expert_capacity": 2 * T}, {"top_k": 1}),
  ],
)
def test_tokens_go_to_their_experts_in_order(settings, loop):
  moe = MoE(expert=MLP(hidden=F), num_experts=E, **settings)
  params = weights(moe)
  ours = apply(moe, params, training=True)
  np.testing.assert_allclose(ours, by_loop(params, **loop), atol=1e-4)
  if "capacity_factor" in settings:
    loop["room"] = (T, T)
  ours = apply(moe, params)
  np.testing.assert_allclose(ours, by_loop(params, **loop), atol=1e-4)


ROOM = [
  {"capacity_factor": 0.5},
  {"top_k": 2, "capacity_factor": 0.4, "normalize_gates": True},
  {"expert_capacity": 1},
  {"capacity_factor": 0.7, "routing": "expert_choice"},
  {"expert_capacity": 2, "routing": "expert_choice"},
]


@pytest.mark.parametrize("settings", ROOM)
def test_a_text_gives_the_same_whatever_stands_beside_it(settings):
  """Wider rows, other rows, and other texts in its row."""
  moe = MoE(expert=MLP(hidden=F), num_experts=E, **settings)
  params = weights(moe)
  rng = np.random.default_rng(2)
  text, other = (rng.normal(size=(1, n, D)).astype("f4") for n in (5, 11))
  ones = np.ones((1, 16), int)
  alone = apply(moe, params, text, ones[:, :5])[0]
  wide = np.pad(text, ((0, 0), (0, 11), (0, 0)), constant_values=3.0)
  segment = np.repeat([1, 0], [5, 11])[None]
  packed = np.concatenate([other, text], axis=1)
  both = np.concatenate([ones + (np.arange(16) >= 11), segment])
  packed, beside = apply(moe, params, np.concatenate([packed, wide]), both)
  np.testing.assert_allclose(packed[11:], alone, atol=1e-5)
  np.testing.assert_allclose(beside[:5], alone, atol=1e-5)
  np.testing.assert_array_equal(beside[5:], 0)


@pytest.mark.parametrize("settings", ROOM)
def test_in_training_padding_takes_no_room_and_makes_none(settings):
  moe = MoE(
    expert=MLP(hidden=F), num_experts=E, balance_loss=1.0, router_z_loss=1.0,
    **settings,
  )  # fmt: skip
  params = weights(moe)
  rng = np.random.default_rng(3)
  text = rng.normal(size=(2, 7, D)).astype("f4")
  wide = np.pad(text, ((0, 0), (0, 9), (0, 0)), constant_values=3.0)
  segment = np.pad(np.ones((2, 7), int), ((0, 0), (0, 9)))

  def run(x, segment):
    rngs = {"dropout": jax.random.key(0)}
    return tiny.jit(
      lambda params, x, segment: moe.apply(
        {"params": params}, x, tokens(segment), mutable=["losses"], rngs=rngs
      )
    )(params, x, segment)

  alone, losses = run(text, segment[:, :7])
  padded, same = run(wide, segment)
  np.testing.assert_allclose(padded[:, :7], alone, atol=1e-5)
  np.testing.assert_array_equal(padded[:, 7:], 0)
  np.testing.assert_allclose(mean(same), mean(losses), rtol=1e-5)


def test_experts_choose_their_best_tokens():
  moe = MoE(
    expert=MLP(hidden=F),
    num_experts=E,
    capacity_factor=1.0,
    routing="expert_choice",
  )
  params = weights(moe)
  logits = X @ params["router"]["kernel"]
  probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  probs *= (SEGMENT != 0)[..., None]
  expected = np.zeros_like(X)
  for b in range(B):
    for e in range(E):
      for t in np.argsort(-probs[b, :, e])[:2]:  # 6 / 3, and of 4 / 3 more.
        wi, wo = (params["experts"][n]["kernel"][e] for n in ("wi", "wo"))
        y = np.maximum(X[b, t] @ wi, 0) @ wo
        expected[b, t] += probs[b, t, e] * y
  ours = moe.apply({"params": params}, X, tokens())
  np.testing.assert_allclose(ours, expected, atol=1e-4)


def mean(sown):
  """Returns the auxiliary loss per token of one layer."""
  (moe,) = sown["losses"]["moe"]
  return moe["sum"] / moe["weight"]


def test_balance_loss_is_one_where_all_is_even_and_e_where_one_takes_all():
  def loss(router):
    moe = MoE(expert=MLP(hidden=F), num_experts=E, balance_loss=1.0)
    params = weights(moe) | {"router": {"kernel": router}}
    _, sown = moe.apply({"params": params}, x, tokens(), mutable=["losses"])
    return mean(sown)

  x = np.tile(np.eye(3, D, dtype=np.float32), (B, 2, 1))
  even = 9.0 * np.eye(D, E, dtype=np.float32)
  # Row 2 has but its first four tokens: 2 + 1 + 1. Each text by itself.
  rows = (2, 2, 2), (2, 1, 1)
  balances = [E * np.square(np.array(n) / sum(n)).sum() for n in rows]
  expected = (6 * balances[0] + 4 * balances[1]) / 10
  np.testing.assert_allclose(loss(even), expected, rtol=1e-2)
  one = 99.0 * np.ones((D, 1), np.float32) * np.eye(1, E, dtype=np.float32)
  np.testing.assert_allclose(loss(one), E, rtol=1e-3)


def test_z_loss_is_the_mean_squared_log_z():
  moe = MoE(expert=MLP(hidden=F), num_experts=E, router_z_loss=0.5)
  params = weights(moe)
  _, sown = moe.apply({"params": params}, X, tokens(), mutable=["losses"])
  log_z = np.log(np.exp(X @ params["router"]["kernel"]).sum(-1))
  expected = 0.5 * np.mean(log_z[SEGMENT != 0] ** 2)
  np.testing.assert_allclose(mean(sown), expected, rtol=1e-5)


def test_shared_expert_sees_every_token():
  moe = MoE(expert=MLP(hidden=F), num_experts=E, shared_expert=Gated(hidden=4))
  params = weights(moe)
  alone = Gated(hidden=4).apply({"params": params["shared_expert"]}, X)
  plain = MoE(expert=MLP(hidden=F), num_experts=E)
  rest = {k: v for k, v in params.items() if k != "shared_expert"}
  without = plain.apply({"params": rest}, X, tokens())
  ours = moe.apply({"params": params}, X, tokens())
  np.testing.assert_allclose(ours, without + alone, atol=1e-4)


def test_losses_join_the_objective_and_reach_the_router():
  model = tiny.llama(scan=True)
  stack = model.transformer.decoder
  moe = MoE(expert=MLP(hidden=F), num_experts=E, balance_loss=0.1)
  dense, sparse = stack.layer, stack.layer.clone(mlp=moe)
  model = tiny.replace_stacks(model, layer=Period((dense, sparse)))
  params, batch = tiny.random_params(model), tiny.batch(model)

  def objective(params):
    terms = model.terms(params, batch)
    return losses.objective(model.loss, terms), terms

  (value, terms), gradients = tiny.jit(
    jax.value_and_grad(objective, has_aux=True)
  )(params)
  loss, moe_loss = terms["loss"].mean(), terms["moe_loss"].mean()
  np.testing.assert_allclose(value, loss + moe_loss, rtol=1e-5)
  assert moe_loss > 0
  router = gradients["decoder"]["layers"]["layer_1"]["mlp"]["router"]
  assert jnp.any(router["kernel"] != 0)


@pytest.fixture(scope="module")
def sparse():
  """A decoder whose experts have room for few, and its parameters."""
  model = tiny.llama(scan=True)
  moe = MoE(
    expert=MLP(hidden=F), num_experts=4, top_k=2, capacity_factor=0.5,
    balance_loss=0.1,
  )  # fmt: skip
  layer = model.transformer.decoder.layer.clone(mlp=moe)
  model = tiny.replace_stacks(model, layer=layer, remat="full")
  return model, tiny.random_params(model)


def test_scores_depend_on_no_neighbour_and_no_width(sparse):
  model, params = sparse
  rows = tiny.batch(model)  # 15 columns.
  wide = {k: np.pad(v, ((0, 0), (0, 49))) for k, v in rows.items()}
  one = {k: v[1:2, :9] for k, v in rows.items()}  # 3 inputs and 6 targets.
  score = tiny.jit(model.score)
  scores = score(params, rows)
  np.testing.assert_allclose(score(params, wide), scores, rtol=1e-5)
  np.testing.assert_allclose(score(params, one), scores[1:2], rtol=1e-5)
  loss, packed = (
    tiny.jit(model.terms)(params, batch)["loss"].sum
    for batch in (rows, tiny.packed(rows))
  )
  np.testing.assert_allclose([loss, packed], -np.sum(scores), rtol=1e-5)


def test_decoding_is_the_whole_forward_beside_a_longer_prompt(sparse):
  model, params = sparse
  batch = tiny.batch(model)
  # The other texts have 11 and 7 tokens.
  text = batch["decoder_target_tokens"][1, :9]
  alone = {k: v[1:2, :9] for k, v in batch.items()}
  expected = tiny.jit(model.logits)(params, alone)[0]
  prompts = {
    k: v * batch["decoder_causal_attention"]
    for k, v in batch.items()
    if k not in ("decoder_target_tokens", "decoder_loss_weights")
  }
  logits, state = tiny.jit(
    lambda params, batch: model.prefill(params, batch, max_new_tokens=5)
  )(params, prompts)
  step = tiny.jit(model.decode_step)
  found = [logits[1]]
  for token in text[3:8]:
    logits, state = step(params, state, jnp.full(3, token))
    found.append(logits[1])
  np.testing.assert_allclose(found, expected[3:], atol=1e-4)


def test_gradients_need_no_training(sparse):
  """Where no token is dropped, over several rounds."""
  model, params = sparse
  batch = tiny.batch(model)
  moe = model.transformer.decoder.layer.mlp.clone(capacity_factor=None)
  layer = model.transformer.decoder.layer.clone(mlp=moe)
  roomy = tiny.replace_stacks(model, layer=layer)
  ours, theirs = (
    tiny.jit(jax.grad(lambda p, m=m: m.objective(p, batch)))(params)
    for m in (model, roomy)
  )
  tiny.assert_trees_close(ours, theirs, rtol=1e-5)


def test_bad_settings_are_refused():
  with pytest.raises(ValueError, match=r"top_k \(4\).*num_experts \(3\)"):
    MoE(expert=MLP(hidden=F), num_experts=E, top_k=4)
  with pytest.raises(ValueError, match="capacity_factor"):
    MoE(expert=MLP(hidden=F), num_experts=E, capacity_factor=0.0)
  with pytest.raises(ValueError, match=r"\(1.5\) and expert_capacity \(2\)"):
    MoE(
      expert=MLP(hidden=F), num_experts=E, capacity_factor=1.5,
      expert_capacity=2,
    )  # fmt: skip
  stack = tiny.llama().transformer.decoder
  moe = MoE(expert=MLP(hidden=F), num_experts=E, routing="expert_choice")
  layer = stack.layer.clone(mlp=moe)
  with pytest.raises(ValueError, match="whole row"):
    stack.clone(layer=layer, rule=Causal())
  assert isinstance(stack.clone(layer=layer, rule=Full()), Stack)
  # A layer's own rule is what its experts read by.
  with pytest.raises(ValueError, match="whole row"):
    stack.clone(layer=layer.clone(rule=Causal()), rule=Full())
