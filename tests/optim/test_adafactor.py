"""Checks Adafactor against the paper in NumPy, optax and transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_lite.optim import adafactor, optimizers, schedules
from t5x_lite.optim.adafactor import Factored, Matrix, as_matrix
from t5x_lite.optim.optimizers import Adafactor
from tests import rounding


def normal(seed, *shape, scale=1.0):
  draw = np.random.default_rng(seed).standard_normal(shape)
  return (scale * draw).astype(np.float32)


def train(transform, params, grads_per_step):
  """Applies one update for each tree of gradients."""

  @jax.jit
  def step(params, state, grads):
    updates, state = transform.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  state = jax.jit(transform.init)(params)
  for grads in grads_per_step:
    params, state = step(params, state, grads)
  return params, state


@pytest.mark.parametrize(
  "axes, rows, cols",
  [
    (("embed", "mlp"), (0,), (1,)),
    (("vocab", "embed"), (0,), (1,)),
    (("embed", "heads", "head_dim"), (0,), (1, 2)),
    (("heads", "head_dim", "embed"), (0, 1), (2,)),
    (("layers", "embed", "kv_heads", "head_dim"), (1,), (2, 3)),
    (("layers", "experts", "embed", "mlp"), (2,), (3,)),
    (("embed", "layers", "mlp"), (0,), (2,)),
    (("buckets", "heads"), (0,), (1,)),
    (("gates", "embed", "mlp"), (0, 2), (1,)),
    (("embed", "gates", "mlp"), (0,), (1, 2)),
    # No matrices: biases of heads, norm scales, scalars, unknown tensors.
    (("heads", "head_dim"), (0, 1), ()),
    (("layers", "heads", "head_dim"), (1, 2), ()),
    (("embed",), (0,), ()),
    (("layers", "embed"), (1,), ()),
    (("layers",), (), ()),
    ((), (), ()),
    (("a", "b", "c"), (0, 1, 2), ()),
  ],
)
def test_leaf_is_seen_as_matrix_by_its_axes(axes, rows, cols):
  assert as_matrix(axes) == Matrix(rows, cols)


def numpy_adafactor(w, grads, *, rate, factored, beta1=None, weight_decay=0.0):
  """Follows algorithms 4 and 5 of arXiv:1804.04235, for one tensor."""
  row = col = v = m = 0.0
  w = w.astype(np.float64)
  for t, g in enumerate(grads, start=1):
    g = g.astype(np.float64)
    beta2 = 1.0 - t**-0.8
    if factored:
      row = beta2 * row + (1 - beta2) * (g**2 + 1e-30).mean(1)
      col = beta2 * col + (1 - beta2) * (g**2 + 1e-30).mean(0)
      v = np.outer(row, col) / row.mean()
    else:
      v = beta2 * v + (1 - beta2) * (g**2 + 1e-30)
    u = g / np.sqrt(v)
    u = u / max(1.0, np.sqrt((u**2).mean()) / 1.0)
    step = rate(t) * max(1e-3, np.sqrt((w**2).mean())) * u
    if beta1 is not None:
      m = beta1 * m + (1 - beta1) * step
      step = m
    w = w - step - weight_decay * rate(t) ** 2 * w
  return w


def test_two_updates_by_hand():
  # Rows and columns of g^2 = [[1, 4], [4, 16]] are proportional, so that the
  # factored estimate is exact: u = sign(g), RMS 1. The weights' RMS is 5.
  w = np.array([[1.0, 7.0], [7.0, 1.0]], np.float32)
  g = np.array([[1.0, 2.0], [-2.0, 4.0]], np.float32)
  optimizer = Adafactor(learning_rate=0.1, min_dim_size_to_factor=2)
  transform = optimizer.build(("embed", "mlp"))
  state = transform.init(w)
  updates, state = transform.update(g, state, w)
  rounding.assert_close(updates, -0.5 * np.sign(g), roundings=32)
  moment = state[0][0].moments
  rounding.assert_close(moment.row, np.array([2.5, 10.0]), roundings=32)
  rounding.assert_close(moment.col, np.array([2.5, 10.0]), roundings=32)
  # The second update forgets 2^-0.8 = 0.574 of the first moment. A gradient
  # twice as large has u = 2 / sqrt(1 + 3 * 0.574) sign(g), clipped to RMS 1.
  updates, state = transform.update(2 * g, state, w)
  rounding.assert_close(updates, -0.5 * np.sign(g), roundings=32)
  moment = state[0][0].moments
  rounding.assert_close(
    moment.row, np.array([2.5, 10.0]) * (1 + 3 * 2**-0.8), roundings=32
  )
  # One half as large is not clipped.
  state = transform.init(w)
  _, state = transform.update(2 * g, state, w)
  updates, _ = transform.update(g, state, w)
  rounding.assert_close(
    updates, -0.5 * np.sign(g) / np.sqrt(4 - 3 * 2**-0.8), roundings=32
  )


@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("beta1, weight_decay", [(None, 0.0), (0.9, 1.0)])
def test_matches_the_paper_in_numpy(factored, beta1, weight_decay):
  w = normal(0, 6, 9, scale=0.3)
  # Some far larger than others: clipping counts.
  grads = [normal(i, 6, 9, scale=10.0 ** (i % 3)) for i in range(1, 9)]
  optimizer = Adafactor(
    learning_rate=schedules.Rsqrt(warmup_steps=3),
    factored=factored,
    beta1=beta1,
    min_dim_size_to_factor=2,
    weight_decay=weight_decay,
    weight_decay_lr_exponent=2.0,
  )
  ours, _ = train(optimizer.build(("embed", "mlp")), w, grads)
  theirs = numpy_adafactor(
    w, grads,
    rate=lambda t: max(t - 1, 3) ** -0.5,
    factored=factored, beta1=beta1, weight_decay=weight_decay,
  )  # fmt: skip
  rounding.assert_close(ours, theirs, roundings=400)


@pytest.mark.parametrize(
  "settings, optax_settings",
  [
    ({}, {}),
    ({"beta1": 0.9}, {"momentum": 0.9}),
    ({"factored": False}, {"factored": False}),
    ({"clipping_threshold": None}, {"clipping_threshold": None}),
    ({"clipping_threshold": 0.3}, {"clipping_threshold": 0.3}),
    (
      {"multiply_by_parameter_scale": False, "decay_rate": 0.6},
      {"multiply_by_parameter_scale": False, "decay_rate": 0.6},
    ),
  ],
)
def test_matches_optax_on_matrices_and_vectors(settings, optax_settings):
  schedule = schedules.LinearWarmup(steps=3, schedule=schedules.Rsqrt())
  shapes = {"wide": (130, 200), "tall": (200, 130), "small": (5, 300)}
  axes = {name: ("embed", "mlp") for name in shapes} | {"scale": ("embed",)}
  shapes["scale"] = (130,)
  params = {k: normal(7, *s, scale=0.05) for k, s in shapes.items()}
  grads = [
    {k: normal(i, *s, scale=0.1 * i) for k, s in shapes.items()}
    for i in range(1, 6)
  ]
  optimizer = Adafactor(learning_rate=schedule, **settings)
  ours, _ = train(optimizer.build(axes), params, grads)
  theirs, _ = train(optax.adafactor(schedule, **optax_settings), params, grads)
  rounding.assert_close(ours, theirs, roundings=200)


def test_matches_transformers():
  import torch
  from transformers.optimization import Adafactor as HfAdafactor

  axes = {"kernel": ("embed", "mlp"), "scale": ("embed",)}
  params = {
    "kernel": normal(0, 20, 30, scale=0.05),
    "scale": normal(1, 20) + 1,
  }
  grads = [
    {"kernel": normal(i, 20, 30, scale=i), "scale": normal(-i % 97, 20)}
    for i in range(1, 6)
  ]
  optimizer = Adafactor(learning_rate=0.02, beta1=0.9, min_dim_size_to_factor=1)
  ours, _ = train(optimizer.build(axes), params, grads)
  torch_params = {
    k: torch.nn.Parameter(torch.tensor(v)) for k, v in params.items()
  }
  theirs = HfAdafactor(
    torch_params.values(), lr=0.02, beta1=0.9, relative_step=False
  )
  for step in grads:
    for name, grad in step.items():
      torch_params[name].grad = torch.tensor(grad)
    theirs.step()
  # transformers scales beta1's mean as we do, and its parameters by their RMS.
  rounding.assert_close(
    ours,
    {k: v.detach().numpy() for k, v in torch_params.items()},
    roundings=100,
  )


SETTINGS = {
  "t5": {},
  "palm": {
    "factored": False, "beta1": 0.9, "clip_norm": 1.0, "weight_decay": 1.0,
    "weight_decay_lr_exponent": 2.0,
  },
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_scanned_layers_learn_as_unrolled_ones_do(name):
  num_layers = 3
  axes = {
    "query": ("embed", "heads", "head_dim"),
    "out": ("heads", "head_dim", "embed"),
    "mlp": ("embed", "mlp"),
    "scale": ("embed",),
    "bias": ("heads", "head_dim"),
  }
  sizes = {"embed": 16, "heads": 3, "head_dim": 6, "mlp": 20}
  shapes = {k: [sizes[a] for a in names] for k, names in axes.items()}

  def layer(seed, i):
    # Layers of very different sizes: no scale may be shared.
    return {k: normal(seed + i, *s, scale=10.0**-i) for k, s in shapes.items()}

  def both(seed):
    layers = [layer(seed, i) for i in range(num_layers)]
    unrolled = {f"layer_{i}": layers[i] for i in range(num_layers)}
    return unrolled, jax.tree.map(lambda *leaves: np.stack(leaves), *layers)

  optimizer = Adafactor(
    learning_rate=0.1, **{"min_dim_size_to_factor": 4, **SETTINGS[name]}
  )
  params, stacked_params = both(0)
  grads, stacked_grads = zip(*(both(10 * t) for t in range(1, 5)), strict=True)
  unrolled, _ = train(
    optimizer.build({name: axes for name in params}), params, grads
  )
  scanned, _ = train(
    optimizer.build({k: ("layers", *names) for k, names in axes.items()}),
    stacked_params,
    stacked_grads,
  )
  for i in range(num_layers):
    rounding.assert_close(
      jax.tree.map(lambda leaf, i=i: leaf[i], scanned),
      unrolled[f"layer_{i}"],
      roundings=64,  # 16 a step.
    )


def test_layer_axis_may_stand_anywhere():
  w, g = normal(0, 4, 5, 6), normal(1, 4, 5, 6)
  optimizer = Adafactor(learning_rate=0.1, min_dim_size_to_factor=2)
  first, _ = train(optimizer.build(("layers", "embed", "mlp")), w, [g])
  middle, _ = train(
    optimizer.build(("embed", "layers", "mlp")),
    w.swapaxes(0, 1),
    [g.swapaxes(0, 1)],
  )
  rounding.assert_close(first, middle.swapaxes(0, 1), roundings=32)


@pytest.mark.parametrize(
  "axes, shape, matrix_shape",
  [
    (("embed", "heads", "head_dim"), (12, 4, 5), (12, 20)),
    (("heads", "head_dim", "embed"), (4, 5, 12), (20, 12)),
  ],
)
def test_attention_kernel_is_treated_as_a_matrix(axes, shape, matrix_shape):
  w, grads = normal(0, *shape), [normal(i, *shape) for i in range(1, 4)]
  optimizer = Adafactor(learning_rate=0.1, min_dim_size_to_factor=2)
  ours, _ = train(optimizer.build(axes), w, grads)
  flat, _ = train(
    optimizer.build(("embed", "mlp")),
    w.reshape(matrix_shape),
    [g.reshape(matrix_shape) for g in grads],
  )
  rounding.assert_close(ours, flat.reshape(shape), roundings=64)


def test_small_or_shapeless_leaves_keep_every_second_moment():
  axes = {
    "query": ("layers", "embed", "heads", "head_dim"),
    "key": ("layers", "embed", "kv_heads", "head_dim"),
    "bias": ("buckets", "heads"),
    "scale": ("layers", "embed"),
  }
  params = {
    "query": jnp.ones((2, 128, 4, 32)),
    "key": jnp.ones((2, 128, 1, 32)),  # 32 columns in all: fewer than 128.
    "bias": jnp.ones((32, 4)),
    "scale": jnp.ones((2, 128)),
  }
  transform = Adafactor(learning_rate=0.1).build(axes)
  moments = jax.eval_shape(transform.init, params)[0][0].moments
  assert moments["query"].row.shape == (2, 128)
  assert moments["query"].col.shape == (2, 4, 32)
  for name in ("key", "bias", "scale"):
    assert moments[name].shape == params[name].shape


def test_factored_update_holds_no_copy_of_the_parameter():
  shape = (1024, 8, 128)
  transform = Adafactor(learning_rate=0.1).build(("embed", "heads", "head_dim"))
  leaf = jax.ShapeDtypeStruct(shape, jnp.float32)

  def step(params, state, grads):
    updates, state = transform.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  state = jax.eval_shape(transform.init, leaf)
  assert sum(x.size for x in jax.tree.leaves(state)) < 0.01 * leaf.size
  memory = (
    jax.jit(step, donate_argnums=(0, 1))
    .lower(leaf, state, leaf)
    .compile()
    .memory_analysis()
  )
  assert memory.temp_size_in_bytes < 0.1 * leaf.size * 4


def test_zero_gradients_do_not_make_nan():
  w = normal(0, 4, 6)
  optimizer = Adafactor(learning_rate=0.1, min_dim_size_to_factor=2)
  new, _ = train(optimizer.build(("embed", "mlp")), w, [0 * w, 0 * w])
  np.testing.assert_array_equal(new, w)


def test_state_axes_follow_the_factors():
  axes = {"q": ("layers", "embed", "heads", "head_dim"), "s": ("embed",)}
  params = {"q": jnp.ones((2, 128, 4, 32)), "s": jnp.ones((128,))}
  transform = Adafactor(learning_rate=0.1, beta1=0.9).build(axes)
  state = jax.eval_shape(transform.init, params)
  named = optimizers.state_axes(state, axes)
  (scaled, _, mean) = named[0]
  assert scaled == adafactor.AdafactorState(
    count=(),
    moments={
      "q": Factored(
        row=("layers", "embed"), col=("layers", "heads", "head_dim")
      ),
      "s": ("embed",),
    },
  )
  assert mean.ema == axes and mean.count == ()
  # Every leaf has one name for each of its dims.
  jax.tree.map(lambda leaf, names: len(names) == leaf.ndim or 1 / 0,
               state, named)  # fmt: skip
