"""Defines TrainState and train_step, for the training loop and `bench`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from t5x_lite.model import Batch, Model, Params


@flax.struct.dataclass
class TrainState:
  """Holds all arrays that training updates.

  Attributes:
    step: int32 scalar, the number of updates made.
    params: nested dict of float32 arrays.
    opt_state: the state of the optax transformation.
  """

  step: jax.Array
  params: Params
  opt_state: Any


class Metrics(NamedTuple):
  """Holds the metrics of a step, on the device.

  Attributes:
    sums: "loss", "weight" and so on (losses.CrossEntropy), over the batch.
    norms: "grad_norm" and "param_norm".
  """

  sums: dict[str, jax.Array]
  norms: dict[str, jax.Array]


def init_state(
  model: Model, optimizer: optax.GradientTransformation, key: jax.Array
) -> TrainState:
  """Initialises the state of step 0."""
  params = model.init(key)
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def train_step(
  model: Model,
  optimizer: optax.GradientTransformation,
  *,
  microbatches: int = 1,
  dropout_key: jax.Array,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """Returns the training step: a function of the state and a global batch.

  The losses of all microbatches are divided by the full batch's denominator, so
  that their summed gradient is the full batch's, whatever the normaliser and
  however unevenly the targets are distributed. The dropout key is folded with
  the step, so that a resumed run has the same dropout as an uninterrupted one.
  """

  def objective(params, batch, scale, key):
    # The loss is scaled, not the gradients, which would cost a pass over them.
    loss, sums = model.loss_and_metrics(params, batch, dropout_key=key)
    return loss * scale, sums

  differentiate = jax.grad(objective, has_aux=True)

  def gradients(params, batch, key):
    # A batch without targets has a gradient of zero, not NaN.
    scale = 1.0 / jnp.maximum(model.denominator(batch), 1e-9)
    if microbatches == 1:
      return differentiate(params, batch, scale, key)

    def add_microbatch(total, xs):
      microbatch, number = xs
      key_of_one = jax.random.fold_in(key, number)
      one = differentiate(params, microbatch, scale, key_of_one)
      return jax.tree.map(jnp.add, total, one), None

    rows = len(jax.tree.leaves(batch)[0])
    if rows % microbatches:
      raise ValueError(
        f"batch size ({rows}) must be divisible by microbatches "
        f"({microbatches})"
      )
    # Microbatch i has rows i, i + n, i + 2n, ...: each device keeps its rows.
    pieces = jax.tree.map(
      lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), batch
    )
    xs = (pieces, jnp.arange(microbatches))
    first = jax.tree.map(lambda x: x[0], xs)
    shapes = jax.eval_shape(lambda: differentiate(params, first[0], scale, key))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add_microbatch, zeros, xs)[0]

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(dropout_key, state.step)
    grads, sums = gradients(state.params, batch, key)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norms = {
      "grad_norm": optax.tree.norm(grads),
      "param_norm": optax.tree.norm(params),
    }
    return TrainState(state.step + 1, params, opt_state), Metrics(sums, norms)

  return step
