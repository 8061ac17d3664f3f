"""The training step: gradients, microbatches, dropout, and that it learns."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_lite.losses import Classification, CrossEntropy, Reward
from t5x_lite.nn.heads import Classifier
from t5x_lite.nn.moe import MoE
from t5x_lite.training.step import TrainState, init_state, train_step
from tests import tiny
from tests.golden import golden

# Six rows that bear loss on 0 to 7 tokens.
ROWS = {"inputs": (7, 3, 5, 8, 1, 2), "targets": (7, 1, 4, 0, 6, 2)}
SGD = optax.sgd(1.0)


def first_state(model, optimizer=SGD, seed=0):
  params = jax.tree.map(jnp.asarray, tiny.random_params(model, seed))
  step = jnp.zeros((), jnp.int32)
  return TrainState(step, params, optimizer.init(params))


def one_step(model, batch, *, state=None, key=0, **settings):
  step = train_step(model, SGD, dropout_key=jax.random.key(key), **settings)
  return tiny.jit(step)(state or first_state(model), batch)


def gradient(model, batch, **settings):
  """Returns what a step of plain gradient descent subtracts."""
  state, _ = one_step(model, batch, **settings)
  return jax.tree.map(jnp.subtract, first_state(model).params, state.params)


def test_a_step_follows_the_gradient_of_the_mean_loss():
  model = tiny.palm(loss=CrossEntropy(z_loss=0.01))
  batch = tiny.batch(model, **ROWS)

  def mean_loss(params):
    return model.objective(params, batch)

  before = first_state(model)
  expected = tiny.jit(jax.grad(mean_loss))(before.params)
  after, metrics = one_step(model, batch)
  tiny.assert_trees_close(
    jax.tree.map(jnp.subtract, before.params, after.params), expected,
    rtol=1e-4,
  )  # fmt: skip
  assert after.step == 1 and metrics.terms["loss"].weight == 20
  np.testing.assert_allclose(
    metrics.norms["grad_norm"], optax.tree.norm(expected), rtol=1e-4
  )
  np.testing.assert_allclose(
    metrics.norms["param_norm"], optax.tree.norm(after.params), rtol=1e-5
  )


def with_classes(model, classes, loss, **classifier):
  """Returns a model with a classifier, and a batch of six rows with classes."""
  classifier = Classifier(**classifier)
  transformer = model.transformer.clone(classifier=classifier)
  model = dataclasses.replace(model, transformer=transformer, loss=loss)
  return model, tiny.batch(model, **ROWS) | {"class_targets": classes}


def with_experts(model):
  """Returns a model whose feed-forward layers are balanced experts."""
  stack = model.transformer.decoder or model.transformer.encoder
  moe = MoE(
    expert=stack.layer.mlp, num_experts=3, balance_loss=0.5, router_z_loss=0.1
  )
  layer = stack.layer.clone(mlp=moe)
  return tiny.replace_stacks(model, layer=layer, scan=True)


def cases():
  """Returns name -> (model, batch, microbatches): all losses and normalisers.

  Rows bear loss on 0 to 7 tokens, and some are padding alone.
  """

  def plain(model):
    return model, tiny.batch(model, **ROWS)

  def normalised(make, normalizer):
    loss = CrossEntropy(z_loss=0.1, label_smoothing=0.1, normalizer=normalizer)
    return plain(make(loss=loss))

  classes = np.array([1, 0, -1, 2, 2, 1])
  of_tokens = np.random.default_rng(0).integers(-1, 3, (6, 8))
  made = {
    "target_tokens": (*normalised(tiny.t5, "target_tokens"), 2),
    "all_tokens": (*normalised(tiny.encoder, "all_tokens"), 3),
    "sequences": (*normalised(tiny.palm, "sequences"), 6),
    "experts": (*plain(with_experts(tiny.llama())), 3),
    "tokens and classes": (
      *with_classes(
        tiny.encoder(), classes, CrossEntropy(class_weight=0.5), num_classes=3
      ),
      2,
    ),
    "classes of tokens": (
      *with_classes(
        tiny.encoder(), of_tokens, Classification(), num_classes=3, pool=None
      ),
      3,
    ),
    "rewards": (
      *with_classes(
        tiny.palm(), np.array([0, 1, 1, 0, 1, 0]), Reward(), num_classes=1,
        pool="last",
      ),
      3,
    ),
  }  # fmt: skip
  for _, batch, _ in made.values():
    for name in batch:  # The last two rows are no text.
      if name.endswith(("segment_ids", "loss_weights")):
        batch[name][4:] = 0
  return made


@pytest.mark.parametrize("case", cases())
def test_microbatches_give_the_full_batchs_gradient(case):
  model, batch, microbatches = cases()[case]
  whole, whole_metrics = one_step(model, batch)
  cut, cut_metrics = one_step(model, batch, microbatches=microbatches)
  tiny.assert_trees_close(cut.params, whole.params, rtol=1e-5)
  weight = whole_metrics.terms["loss"].weight
  assert 0 < weight < (3 if case == "rewards" else 42)
  for name, term in whole_metrics.terms.items():
    for found, expected in zip(cut_metrics.terms[name], term, strict=True):
      np.testing.assert_allclose(found, expected, rtol=2e-5, err_msg=name)


def test_microbatches_do_not_compute_the_full_batch_besides():
  model, batch, _ = cases()["experts"]

  def flops(microbatches):
    step = train_step(
      model, SGD, microbatches=microbatches, dropout_key=jax.random.key(0)
    )
    compiled = jax.jit(step).lower(first_state(model), batch).compile()
    # A loop's body counts once.
    return compiled.cost_analysis()["flops"]

  assert flops(6) < 0.3 * flops(1)


def test_a_pair_that_microbatches_would_tear_apart_is_refused():
  model, batch, _ = cases()["rewards"]
  with pytest.raises(ValueError, match=r"\(6\) must be .* \(2 x 2 rows\)"):
    one_step(model, batch, microbatches=2)


def test_a_batch_without_loss_bearing_tokens_changes_nothing():
  model = tiny.palm(loss=CrossEntropy(z_loss=0.1))
  batch = tiny.batch(model, **ROWS)
  batch["decoder_loss_weights"] *= 0
  for g in jax.tree.leaves(gradient(model, batch)):
    np.testing.assert_array_equal(g, 0)


def test_microbatches_that_do_not_divide_the_batch_are_refused():
  model = tiny.palm()
  with pytest.raises(
    ValueError,
    match=r"batch size \(6\) must be divisible by microbatches \(4\)",
  ):
    one_step(model, tiny.batch(model, **ROWS), microbatches=4)


# Dropout.


@pytest.mark.parametrize(
  "rate, microbatches, scan", [(0.0, 1, False), (0.2, 1, False), (0.2, 2, True)]
)
def test_dropout_is_a_function_of_key_and_step(rate, microbatches, scan):
  model = tiny.palm(dropout=rate, scan=scan)
  batch = tiny.batch(model, **ROWS)

  @tiny.jit
  def loss(seed, number):
    step = train_step(
      model, SGD, microbatches=microbatches, dropout_key=jax.random.key(seed)
    )
    state = first_state(model).replace(step=number)
    return step(state, batch)[1].terms["loss"].sum

  drawn = [float(loss(seed, number)) for seed in (0, 1) for number in (3, 4)]
  assert loss(0, 3) == drawn[0]
  assert len(set(drawn)) == (4 if rate else 1)


def test_dropout_differs_between_rows():
  model = tiny.t5(dropout=0.2)
  batch = tiny.batch(model, inputs=(7,), targets=(5,))
  batch = {k: np.repeat(v, 6, axis=0) for k, v in batch.items()}
  params, key = tiny.random_params(model), jax.random.key(0)

  @tiny.jit
  def loss_of(row):
    weights = batch["decoder_loss_weights"] * (np.arange(6) == row)[:, None]
    one = {**batch, "decoder_loss_weights": weights}
    return model.objective(params, one, key=key)

  assert len({float(loss_of(row)) for row in range(6)}) == 6


# Learning.


def copy_batch(model, seed):
  """Draws rows whose targets are their inputs, of four kinds of token."""
  rows = 16
  rng = np.random.default_rng(seed)
  batch = tiny.batch(
    model, inputs=(3,) * rows, targets=(3,) * rows, input_length=3,
    target_length=3,
  )  # fmt: skip
  text = rng.integers(1, 5, (rows, 3))
  if model.row_format.name == "encoder_decoder":
    batch["encoder_input_tokens"] = batch["decoder_target_tokens"] = text
  else:
    batch["decoder_target_tokens"] = np.tile(text, 2)
  shifted = batch["decoder_target_tokens"][:, :-1]
  batch["decoder_input_tokens"] = np.pad(shifted, ((0, 0), (1, 0)))
  return batch


def losses(model, steps, learning_rate=1e-2):
  optimizer = optax.adam(learning_rate)
  step = tiny.jit(train_step(model, optimizer, dropout_key=jax.random.key(0)))
  state = tiny.jit(functools.partial(init_state, model, optimizer))(
    jax.random.key(0)
  )
  means = []
  for number in range(steps):
    state, metrics = step(state, copy_batch(model, number))
    means.append(float(metrics.terms["loss"].mean()))
  return means


def test_a_toy_copy_task_is_learned_and_as_before():
  found = losses(tiny.t5(loss=CrossEntropy(z_loss=1e-4)), steps=150)
  # Knowing the four tokens alone leaves log 4.
  assert 3 < found[0] < 5 and np.mean(found[-10:]) < 0.3 * np.log(4)
  golden.check("first_losses", [round(x, 4) for x in found[:10]], atol=3e-3)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_batch_whose_loss_is_not_finite_changes_nothing(microbatches):
  model = tiny.palm(loss=CrossEntropy(z_loss=1e38))
  optimizer = optax.adam(0.1)
  state = first_state(model, optimizer)
  state = state.replace(opt_state=jax.tree.map(jnp.ones_like, state.opt_state))
  step = train_step(
    model, optimizer, microbatches=microbatches, dropout_key=jax.random.key(0)
  )
  after, metrics = tiny.jit(step)(state, tiny.batch(model, **ROWS))
  assert after.step == 1
  assert metrics.terms["skipped_steps"].sum == 1
  for name in ("params", "opt_state"):
    jax.tree.map(
      np.testing.assert_array_equal, getattr(after, name), getattr(state, name)
    )
