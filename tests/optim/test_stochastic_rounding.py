"""Parameters kept in bfloat16: rounded without bias, and trained so."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from t5x_lite.optim import stochastic_rounding
from t5x_lite.training.step import init_state, train_step
from tests import tiny


def rounded(x, seed=0, dtype=jnp.bfloat16):
  like = jnp.zeros(x.shape, dtype)
  return stochastic_rounding.rounded([x], [like], jax.random.key(seed))[0]


def test_numbers_become_one_of_their_neighbours_and_keep_their_mean():
  x = jnp.full(20_000, 1.001, jnp.float32)
  found = np.float32(rounded(x))
  assert set(found.tolist()) == {1.0, 1.0078125}
  # The deviation of a mean of 20,000 is 2e-5.
  np.testing.assert_allclose(found.mean(), 1.001, atol=1e-4)
  np.testing.assert_array_equal(np.float32(rounded(-x)), -found)


def test_what_bfloat16_holds_is_not_changed():
  held = [0.0, -0.0, 1.0, -3.5, 1e-30, np.inf, -np.inf, np.nan]
  x = jnp.array(held, jnp.bfloat16).astype(jnp.float32)
  np.testing.assert_array_equal(np.float32(rounded(x)), np.float32(x))


def test_float32_is_left_alone():
  x = jnp.full(3, 1.001, jnp.float32)
  assert rounded(x, dtype=jnp.float32) is x


def test_steps_too_small_for_bfloat16_add_up():
  model = dataclasses.replace(tiny.llama(), param_dtype="bfloat16")
  # Each step subtracts a 10,000th: 1 has its neighbours 78 and 39 of them away.
  optimizer = optax.stateless(
    lambda grads, _: jax.tree.map(lambda g: jnp.full_like(g, -1e-4), grads)
  )
  state = init_state(model, optimizer, jax.random.key(0))
  assert {str(x.dtype) for x in jax.tree.leaves(state.params)} == {"bfloat16"}
  step = tiny.jit(train_step(model, optimizer, dropout_key=jax.random.key(1)))
  batch = tiny.batch(model)
  before = np.float32(state.params["decoder"]["layer_0"]["mlp_norm"]["scale"])
  for _ in range(20):
    state, _ = step(state, batch)
  again, _ = step(state, batch)
  same, _ = step(state, batch)
  after = np.float32(state.params["decoder"]["layer_0"]["mlp_norm"]["scale"])
  assert (before == 1).all() and (after < 1).any()
  moved = [
    np.float32(new).mean() - np.float32(old).mean()
    for new, old in zip(
      jax.tree.leaves(state.params),
      jax.tree.leaves(init_state(model, optimizer, jax.random.key(0)).params),
      strict=True,
    )
    if new.size > 500
  ]
  # The mean of 500 numbers below 2 has a deviation of 3e-4 at most.
  np.testing.assert_allclose(moved, -20e-4, atol=1e-3)
  jax.tree.map(np.testing.assert_array_equal, again.params, same.params)
