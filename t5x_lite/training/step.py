"""TrainState and train_step: what the training loop and `bench` share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from t5x_lite.model import Batch, Model, Params


@flax.struct.dataclass
class TrainState:
  """All that training changes.

  Attributes:
    step: int32 scalar, the number of updates made.
    params: nested dict of float32 arrays.
    opt_state: of the optax transformation.
  """

  step: jax.Array
  params: Params
  opt_state: Any


class Metrics(NamedTuple):
  """Sums over the steps since the last record, kept on the device.

  Attributes:
    sums: "loss", "weight" and so on (losses.CrossEntropy), over all steps.
    norms: of the last step: "grad_norm" and "param_norm".
  """

  sums: dict[str, jax.Array]
  norms: dict[str, jax.Array]


def init_state(
  model: Model, optimizer: optax.GradientTransformation, key: jax.Array
) -> TrainState:
  """Draws the state of step 0."""
  params = model.init(key)
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def train_step(
  model: Model,
  optimizer: optax.GradientTransformation,
  *,
  microbatches: int = 1,
  dropout_key: jax.Array,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """Returns the function from a state and a global batch to the next state.

  Microbatches are all divided by the full batch's denominator, so that their
  gradient is the full batch's whatever the normaliser and however unevenly
  the loss-bearing tokens fall. The dropout key is folded with the step: a
  resumed run draws what an unbroken one would.
  """

  def objective(params, batch, scale, key):
    # Scaled here, not in the gradients: that would be one more pass over them.
    loss, sums = model.loss_and_metrics(params, batch, dropout_key=key)
    return loss * scale, sums

  differentiate = jax.grad(objective, has_aux=True)

  def gradients(params, batch, key):
    # A batch without a loss-bearing token has no gradient, not a NaN.
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
    # Rows i, i + n, i + 2n... go together: each device keeps its own rows.
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
