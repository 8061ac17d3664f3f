"""Checks optimizers: AdamW, clipping, weight decay, state sharding, errors."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_lite.devices.layout import Layout
from t5x_lite.optim import optimizers
from t5x_lite.optim.optimizers import Adafactor, AdamW
from t5x_lite.optim.schedules import Constant, Cosine, LinearWarmup
from tests import rounding

GIN_FILES = pathlib.Path(__file__).parents[2] / "gin"

AXES = {
  "embedding": ("vocab", "embed"),
  "decoder": {
    "query": ("layers", "embed", "heads", "head_dim"),
    "wi": ("layers", "embed", "mlp"),
    "wi_bias": ("layers", "mlp"),
    "query_bias": ("layers", "heads", "head_dim"),
    "scale": ("layers", "embed"),
  },
  "final_scale": ("embed",),
}
SIZES = {
  "layers": 2, "embed": 16, "heads": 4, "head_dim": 4, "mlp": 24, "vocab": 32,
}  # fmt: skip


def normal_tree(seed, scale=1.0):
  rng = np.random.default_rng(seed)

  def draw(axes):
    shape = [SIZES[axis] for axis in axes]
    return (scale * rng.standard_normal(shape)).astype(np.float32)

  return jax.tree.map(draw, AXES, is_leaf=lambda node: type(node) is tuple)


PARAMS = normal_tree(0, scale=0.1)
GRADS = [normal_tree(seed) for seed in range(1, 6)]


def train(transform, params, grads_per_step):
  state = jax.jit(transform.init)(params)

  @jax.jit
  def step(params, state, grads):
    updates, state = transform.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  for grads in grads_per_step:
    params, state = step(params, state, grads)
  return params, state


IS_MATRIX = {
  "embedding": True,
  "decoder": {
    "query": True, "wi": True, "wi_bias": False, "query_bias": False,
    "scale": False,
  },
  "final_scale": False,
}  # fmt: skip


def test_adamw_matches_optax():
  schedule = LinearWarmup(steps=3, schedule=Constant(value=0.02))
  optimizer = AdamW(
    learning_rate=schedule, beta1=0.8, beta2=0.95, epsilon=1e-6,
    weight_decay=0.3, clip_norm=1.0,
  )  # fmt: skip
  ours, _ = train(optimizer.build(AXES), PARAMS, GRADS)
  theirs, _ = train(
    optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.adamw(schedule, 0.8, 0.95, 1e-6, weight_decay=0.3, mask=IS_MATRIX),
    ),
    PARAMS,
    GRADS,
  )
  rounding.assert_close(ours, theirs, roundings=100)


def test_adamw_matches_torch():
  import torch

  w = PARAMS["embedding"]
  grads = [g["embedding"] for g in GRADS]
  optimizer = AdamW(learning_rate=0.02, beta2=0.95, weight_decay=0.3)
  ours, _ = train(optimizer.build(("vocab", "embed")), w, grads)
  theirs = torch.nn.Parameter(torch.tensor(w))
  reference = torch.optim.AdamW(
    [theirs], lr=0.02, betas=(0.9, 0.95), weight_decay=0.3
  )
  for grad in grads:
    theirs.grad = torch.tensor(grad)
    reference.step()
  rounding.assert_close(ours, theirs.detach().numpy(), roundings=200)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3])
def test_gradients_are_clipped_to_the_global_norm(scale):
  # Of norm 5 * scale.
  grads = {"a": np.float32([0.0, 3.0 * scale]), "b": np.float32(4.0 * scale)}
  clipped, _ = optimizers.clip_by_global_norm(2.0).update(grads, ())
  factor = min(1.0, 2.0 / (5.0 * scale)) if scale else 1.0
  expected = jax.tree.map(lambda g: g * factor, grads)
  rounding.assert_close(clipped, expected, roundings=32)


@pytest.mark.parametrize("kind", [AdamW, Adafactor])
@pytest.mark.parametrize("exponent, share", [(1.0, 0.1 * 0.5), (2.0, 0.005)])
def test_matrices_alone_decay_by_rate_and_exponent(kind, exponent, share):
  optimizer = kind(
    learning_rate=0.1, weight_decay=0.5, weight_decay_lr_exponent=exponent
  )
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  new, _ = train(optimizer.build(AXES), PARAMS, [zeros])
  expected = jax.tree.map(
    lambda p, decays: p * (1 - share) if decays else p, PARAMS, IS_MATRIX
  )
  rounding.assert_close(new, expected, roundings=32)


def test_learning_rate_is_known_for_each_step():
  optimizer = AdamW(learning_rate=3e-4)
  assert optimizer.learning_rate == Constant(value=3e-4)
  rounding.assert_close(optimizer.learning_rate(7), 3e-4, roundings=32)
  fitted = AdamW(learning_rate=Cosine(peak=1.0)).fit_steps(100)
  rounding.assert_close(fitted.learning_rate(50), 0.5, roundings=32)
  # The first update takes the rate of step 0: here none at all.
  warmup = LinearWarmup(steps=2, schedule=Constant(value=1.0))
  new, _ = train(AdamW(learning_rate=warmup).build(AXES), PARAMS, GRADS[:1])
  rounding.assert_close(new, PARAMS, roundings=100)


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: AdamW(learning_rate="1e-3"), r"AdamW\.learning_rate \('1e-3'\)"),
    (lambda: AdamW(learning_rate=-1e-3), r"AdamW\.learning_rate \(-0\.001\)"),
    (lambda: AdamW(learning_rate=1, beta1=1.0), r"AdamW\.beta1 \(1\.0\)"),
    (lambda: AdamW(learning_rate=1, epsilon=0), r"AdamW\.epsilon \(0\)"),
    (lambda: AdamW(learning_rate=1, clip_norm=0.0), r"clip_norm \(0\.0\)"),
    (lambda: AdamW(learning_rate=1, weight_decay=-1), r"weight_decay \(-1\)"),
    (
      lambda: Adafactor(learning_rate=1, decay_rate=0.0),
      r"Adafactor\.decay_rate \(0\.0\) must be above 0",
    ),
    (
      lambda: Adafactor(learning_rate=1, beta1=1.5),
      r"Adafactor\.beta1 \(1\.5\) must be in \[0, 1\), or None",
    ),
  ],
)
def test_senseless_optimizer_is_refused(make, message):
  with pytest.raises(ValueError, match=message) as error:
    make()
  assert "\n" not in str(error.value)


OPTIMIZERS = {
  "adamw": AdamW(learning_rate=0.1, weight_decay=0.1, clip_norm=1.0),
  "adafactor_t5": Adafactor(learning_rate=0.1, min_dim_size_to_factor=4),
  "adafactor_palm": Adafactor(
    learning_rate=0.1, factored=False, beta1=0.9, clip_norm=1.0,
    weight_decay=1.0, weight_decay_lr_exponent=2.0,
  ),
}  # fmt: skip


@pytest.mark.parametrize(
  "name, rules",
  [("adafactor_t5", ())]
  + [(name, (("embed", "data"),)) for name in OPTIMIZERS],
)
def test_sharded_update_equals_unsharded(name, rules):
  transform = OPTIMIZERS[name].build(AXES)
  expected, expected_state = train(transform, PARAMS, GRADS[:2])

  layout = Layout(mesh={"data": 2, "tensor": 4}, rules=rules)
  state = jax.jit(transform.init)(PARAMS)
  state_axes = optimizers.state_axes(state, AXES)
  params_shardings = layout.tree_shardings(AXES, PARAMS)
  state_shardings = layout.tree_shardings(state_axes, state)

  def step(params, state, grads):
    updates, state = transform.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  shardings = (params_shardings, state_shardings)
  with layout.activate():
    step = jax.jit(
      step,
      in_shardings=(*shardings, params_shardings),
      out_shardings=shardings,
      donate_argnums=(0, 1),
    )
    params = jax.device_put(PARAMS, params_shardings)
    state = jax.device_put(state, state_shardings)
    for grads in GRADS[:2]:
      params, state = step(
        params, state, jax.device_put(grads, params_shardings)
      )
  rounding.assert_close(params, expected, roundings=400)
  rounding.assert_close(state, expected_state, roundings=400)
  # Moments lie where their parameters do.
  bytes_in_all = sum(x.nbytes for x in jax.tree.leaves(state))
  bytes_on_one = sum(
    x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state)
  )
  assert bytes_on_one < (0.4 if rules else 0.8) * bytes_in_all


def test_state_axes_of_adamw_are_the_parameters():
  transform = OPTIMIZERS["adamw"].build(AXES)
  state = jax.eval_shape(transform.init, PARAMS)
  named = optimizers.state_axes(state, AXES)
  adam = named[1][0]
  assert adam.mu == AXES and adam.nu == AXES and adam.count == ()


@pytest.mark.parametrize("name", ["adamw", "adafactor_t5", "adafactor_palm"])
def test_gin_file_builds_an_optimizer_that_learns(name):
  import gin

  gin.clear_config()
  gin.parse_config_files_and_bindings(
    [str(GIN_FILES / "optim" / f"{name}.gin")], None
  )
  try:
    optimizer = gin.query_parameter(
      "run.Run.optimizer"
    ).scoped_configurable_fn()
  finally:
    gin.clear_config()
  optimizer = optimizer.fit_steps(1000)
  new, _ = train(optimizer.build(AXES), PARAMS, GRADS[:2])
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(new))
  assert not np.allclose(new["embedding"], PARAMS["embedding"])


@pytest.mark.parametrize(
  "build", [AdamW, lambda **s: Adafactor(beta1=0.9, **s)]
)
def test_the_first_moment_takes_half_the_bytes_in_half_precision(build):
  def trained(dtype):
    optimizer = build(learning_rate=0.01, first_moment_dtype=dtype)
    params, state = train(optimizer.build(AXES), PARAMS, GRADS)
    return params, [x for x in jax.tree.leaves(state) if x.ndim]

  whole, whole_state = trained("float32")
  half, half_state = trained("bfloat16")
  assert {x.dtype.name for x in whole_state} == {"float32"}
  sizes = {"float32": 0, "bfloat16": 0}
  for leaf in half_state:
    sizes[leaf.dtype.name] += leaf.size
  count = sum(x.size for x in jax.tree.leaves(PARAMS))
  assert sizes["bfloat16"] == count
  assert sizes["float32"] == sum(x.size for x in whole_state) - count
  # The updates are those of float32 but for the rounding of bfloat16.
  moved = jax.tree.map(lambda a, b: a - b, whole, PARAMS)
  differs = jax.tree.map(lambda a, b: a - b, whole, half)
  assert 0 < optax.tree.norm(differs) < 0.01 * optax.tree.norm(moved)


def test_the_first_moment_has_a_dtype_of_two():
  message = r"AdamW.first_moment_dtype \('float16'\) must be of type 'float32'"
  with pytest.raises(ValueError, match=message):
    AdamW(learning_rate=0.01, first_moment_dtype="float16")
