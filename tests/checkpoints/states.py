"""States, and checkpoints of them, for the tests of checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from t5x_lite.checkpoints import Retention
from t5x_lite.checkpoints.manager import Checkpoints


@struct.dataclass
class State:
  step: jax.Array
  params: dict
  opt_state: tuple


class Counter:
  """A data iterator that knows only how far it is.

  Once restored, `all_positions` has those of all processes that saved.
  """

  def __init__(self, position=0):
    self.position = position

  def save(self, directory):
    (directory / "position").write_text(str(self.position))

  def restore(self, directories):
    self.all_positions = [
      int((directory / "position").read_text()) for directory in directories
    ]
    self.position = self.all_positions[0]


def make_state(step=0):
  key = jax.random.fold_in(jax.random.key(0), step)
  params = {
    "decoder": {"layer_0": {"kernel": jax.random.normal(key, (64, 32))}},
    "embedding": jax.random.normal(key, (96, 4), jnp.bfloat16),
  }
  # An empty leaf: some optimizers hold a place with one.
  opt_state = (optax.adam(0.1).init(params), {"none": jnp.zeros((0, 2))})
  return State(jnp.asarray(step, jnp.int32), params, opt_state)


def abstract(state, sharding=None):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state
  )


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def save_steps(run, *steps, keep=None):
  with Checkpoints(run, keep or Retention(last=None)) as checkpoints:
    for step in steps:
      checkpoints.save(step, make_state(step), Counter(10 * step))


def names(run):
  return sorted(p.name for p in (run / "checkpoints").iterdir())
