"""Mixture of experts against a loop over tokens, and its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.nn.feedforward import MLP, Gated
from t5x_lite.nn.moe import MoE
from t5x_lite.nn.stack import Period, Stack
from t5x_lite.nn.visibility import Causal, Full, Tokens
from tests import tiny

B, T, D, F, E = 2, 6, 5, 7, 3
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
SEGMENT = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def tokens(segment=SEGMENT):
  index = np.broadcast_to(np.arange(segment.shape[1]), segment.shape)
  return Tokens(index, index, segment, segment < 0)


def weights(moe, seed=1):
  shapes = jax.eval_shape(moe.init, jax.random.key(0), X, tokens())["params"]
  rng = np.random.default_rng(seed)

  def draw(leaf):
    return rng.normal(size=leaf.value.shape).astype(np.float32)

  return jax.tree.map(draw, shapes, is_leaf=lambda x: hasattr(x, "value"))


def by_loop(params, top_k, *, normalize=False, room=T):
  """Sends the tokens one by one, in their order in the row."""
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
        if filled[e] > room:
          continue
        wi, wo = (params["experts"][n]["kernel"][e] for n in ("wi", "wo"))
        y = np.maximum(X[b, t] @ wi, 0) @ wo
        out[b, t] += probs[b, t, e] / total * y
  return out


@pytest.mark.parametrize(
  "settings, loop",
  [
    ({}, {"top_k": 1}),
    ({"top_k": 2}, {"top_k": 2}),
    ({"top_k": 2, "normalize_gates": True}, {"top_k": 2, "normalize": True}),
    ({"capacity_factor": 0.5}, {"top_k": 1, "room": 1}),
    ({"top_k": 2, "capacity_factor": 0.5}, {"top_k": 2, "room": 2}),
    ({"expert_capacity": 2}, {"top_k": 1, "room": 2}),
    ({"expert_capacity": 2 * T}, {"top_k": 1}),
  ],
)
def test_tokens_go_to_their_experts_in_order(settings, loop):
  moe = MoE(expert=MLP(hidden=F), num_experts=E, **settings)
  params = weights(moe)
  ours = moe.apply({"params": params}, X, tokens())
  np.testing.assert_allclose(ours, by_loop(params, **loop), atol=1e-4)


def test_experts_choose_their_best_tokens():
  moe = MoE(
    expert=MLP(hidden=F), num_experts=E, capacity_factor=1.0, chooser="experts"
  )
  params = weights(moe)
  logits = X @ params["router"]["kernel"]
  probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  probs *= (SEGMENT != 0)[..., None]
  expected = np.zeros_like(X)
  for b in range(B):
    for e in range(E):
      for t in np.argsort(-probs[b, :, e])[:2]:  # 6 tokens / 3 experts.
        wi, wo = (params["experts"][n]["kernel"][e] for n in ("wi", "wo"))
        y = np.maximum(X[b, t] @ wi, 0) @ wo
        expected[b, t] += probs[b, t, e] * y
  ours = moe.apply({"params": params}, X, tokens())
  np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_balance_loss_is_one_where_all_is_even_and_e_where_one_takes_all():
  def loss(router):
    moe = MoE(expert=MLP(hidden=F), num_experts=E, balance_loss=1.0)
    params = weights(moe) | {"router": {"kernel": router}}
    _, sown = moe.apply({"params": params}, x, tokens(), mutable=["losses"])
    return sown["losses"]["moe"][0]

  x = np.tile(np.eye(3, D, dtype=np.float32), (B, 2, 1))
  even = 9.0 * np.eye(D, E, dtype=np.float32)
  # Row 2 has but its first four tokens: 4 + 3 + 3 of 10.
  shares = np.array([4, 3, 3]) / 10
  np.testing.assert_allclose(loss(even), E * (shares**2).sum(), rtol=1e-2)
  one = 99.0 * np.ones((D, 1), np.float32) * np.eye(1, E, dtype=np.float32)
  np.testing.assert_allclose(loss(one), E, rtol=1e-3)


def test_z_loss_is_the_mean_squared_log_z():
  moe = MoE(expert=MLP(hidden=F), num_experts=E, router_z_loss=0.5)
  params = weights(moe)
  _, sown = moe.apply({"params": params}, X, tokens(), mutable=["losses"])
  log_z = np.log(np.exp(X @ params["router"]["kernel"]).sum(-1))
  expected = 0.5 * np.mean(log_z[SEGMENT != 0] ** 2)
  np.testing.assert_allclose(sown["losses"]["moe"][0], expected, rtol=1e-5)


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
    return model.loss_and_metrics(params, batch)

  (value, sums), gradients = tiny.jit(
    jax.value_and_grad(objective, has_aux=True)
  )(params)
  np.testing.assert_allclose(value, sums["loss"] + sums["moe_loss"], rtol=1e-5)
  assert sums["moe_loss"] > 0
  router = gradients["decoder"]["layers"]["layer_1"]["mlp"]["router"]
  assert jnp.any(router["kernel"] != 0)


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
  moe = MoE(expert=MLP(hidden=F), num_experts=E, chooser="experts")
  layer = stack.layer.clone(mlp=moe)
  with pytest.raises(ValueError, match="whole row"):
    stack.clone(layer=layer, rule=Causal())
  assert isinstance(stack.clone(layer=layer, rule=Full()), Stack)
