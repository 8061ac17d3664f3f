"""Gives the shapes and shardings of a training state, without its arrays."""

import jax
import optax

from t5x_lite.devices.layout import Layout
from t5x_lite.model import Model
from t5x_lite.optim import optimizers
from t5x_lite.training import step
from t5x_lite.training.step import TrainState


def shapes(
  model: Model, optimizer: optax.GradientTransformation
) -> tuple[TrainState, TrainState]:
  """Returns the shapes and the logical axes of the state."""
  state = jax.eval_shape(
    lambda: step.init_state(model, optimizer, jax.random.key(0))
  )
  axes = model.logical_axes()
  opt_axes = optimizers.state_axes(state.opt_state, axes)
  return state, TrainState(step=(), params=axes, opt_state=opt_axes)


def place(state: TrainState, axes: TrainState, layout: Layout) -> TrainState:
  """Returns an abstract state with shardings."""
  shardings = layout.tree_shardings(axes, state)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    state,
    shardings,
  )
