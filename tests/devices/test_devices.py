"""The same training on one device and on eight, whatever the mesh."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_lite.decoding import generate
from t5x_lite.devices.layout import Layout
from t5x_lite.losses.cross_entropy import CrossEntropy
from t5x_lite.optim.optimizers import state_axes
from t5x_lite.training.step import TrainState, train_step
from tests import tiny

STEPS = 3
LOSS = CrossEntropy(z_loss=1e-3, chunk_tokens=16)
ROWS = {
  "inputs": (7, 3, 5, 8, 1, 2, 4, 6), "targets": (7, 1, 4, 2, 6, 2, 5, 3),
}  # fmt: skip
OPTIMIZER = optax.chain(
  optax.clip_by_global_norm(1.0), optax.sgd(0.3, momentum=0.9)
)


def train(model, layout: Layout | None, microbatches=1):
  """Returns the losses of a few steps, and the last parameters."""
  params = jax.tree.map(jnp.asarray, tiny.random_params(model))
  state = TrainState(jnp.zeros((), jnp.int32), params, OPTIMIZER.init(params))
  step = train_step(
    model, OPTIMIZER, microbatches=microbatches,
    dropout_key=jax.random.key(0),
  )  # fmt: skip
  context = contextlib.nullcontext()
  if layout is not None:
    axes = model.logical_axes()
    layout = layout.fit(axes, params)
    state_logical_axes = TrainState((), axes, state_axes(state.opt_state, axes))
    shardings = layout.tree_shardings(state_logical_axes, state)
    state = jax.device_put(state, shardings)
    context = layout.activate()
  losses = []
  with context:
    step = tiny.jit(step)
    for seed in range(STEPS):
      batch = tiny.batch(model, **ROWS, seed=seed)
      if layout is not None:
        batch = layout.shard_batch(batch)
      state, metrics = step(state, batch)
      losses.append(metrics.terms["loss"].mean())
  return np.array(losses), state.params


MODELS = {
  "t5": tiny.t5(loss=LOSS),
  "palm_scan": tiny.palm(loss=LOSS, scan=True, remat="full"),
}


@functools.cache
def alone(name):
  return train(MODELS[name], None)


@pytest.mark.parametrize(
  "name, layout, microbatches, shard",
  [
    ("t5", Layout(mesh={"data": 8}), 1, (20, 28)),
    (
      "t5",
      Layout(mesh={"data": 2, "tensor": 4}, rules=(("embed", "data"),)),
      2,
      (10, 7),
    ),
    ("palm_scan", Layout(mesh={"data": 4, "tensor": 2}), 1, (2, 20, 14)),
    # Hybrid FSDP: rows over two mesh axes, parameters over two others.
    ("t5", Layout(mesh={"data": 2, "fsdp": 2, "tensor": 2}), 2, (10, 14)),
    # Tokens of activations over a mesh axis that no default rule knows.
    (
      "t5",
      Layout(mesh={"data": 2, "sequence": 4}, rules=(("length", "sequence"),)),
      1,
      (20, 28),
    ),
    # One key head, 4 query heads, 37 ids: what 8 does not divide is whole.
    ("palm_scan", Layout(mesh={"data": 1, "tensor": 8}), 1, (2, 20, 28)),
  ],
)
def test_eight_devices_train_as_one_does(name, layout, microbatches, shard):
  losses, params = train(MODELS[name], layout, microbatches)
  expected_losses, expected_params = alone(name)
  np.testing.assert_allclose(losses, expected_losses, atol=1e-5, rtol=1e-6)
  tiny.assert_trees_close(params, expected_params, rtol=1e-5)
  decoder = params["decoder"]
  layer = (decoder["layers"] if "scan" in name else decoder)["layer_0"]
  kernel = layer["mlp"]["wi_gate"]["kernel"]
  assert {s.data.shape for s in kernel.addressable_shards} == {shard}


def test_scores_and_generation_do_not_depend_on_the_mesh():
  model = tiny.t5()
  params, batch = tiny.random_params(model), tiny.batch(model, **ROWS)

  def compute(batch):
    tokens = generate(model, params, batch, max_new_tokens=4).tokens
    return tokens, tiny.jit(model.score)(params, batch)

  expected_tokens, expected_scores = compute(batch)
  layout = Layout(mesh={"data": 4, "tensor": 2})
  layout = layout.fit(model.logical_axes(), model.abstract())
  with layout.activate():
    tokens, scores = compute(layout.shard_batch(batch))
  np.testing.assert_array_equal(tokens, expected_tokens)
  np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)
