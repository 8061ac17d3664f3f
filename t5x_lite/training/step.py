"""Defines TrainState and train_step, for the training loop and `bench`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from t5x_lite import losses
from t5x_lite.data import token_counts
from t5x_lite.losses import Term, Terms
from t5x_lite.model import Batch, Model, Params
from t5x_lite.optim import stochastic_rounding
from t5x_lite.training import checksums


@flax.struct.dataclass
class TrainState:
  """Holds all arrays that training updates.

  Attributes:
    step: int32 scalar, the number of batches seen.
    params: nested dict of arrays, of Model.param_dtype.
    opt_state: the state of the optax transformation.
  """

  step: jax.Array
  params: Params
  opt_state: Any


class Metrics(NamedTuple):
  """Holds the metrics of a step, on the device.

  Attributes:
    terms: of the model's loss on the whole batch (losses/terms.py), and
      "skipped_steps", 1 where the batch has changed nothing.
    norms: "grad_norm" and "param_norm".
    batch_digest: the checksum of the whole batch (checksums.py), uint32.
    counts: of the whole batch's tokens (data/token_counts.py).
  """

  terms: Terms
  norms: dict[str, jax.Array]
  batch_digest: jax.Array
  counts: dict[str, jax.Array]


def init_state(
  model: Model, optimizer: optax.GradientTransformation, key: jax.Array
) -> TrainState:
  """Initialises the state of step 0."""
  params = model.init(key)
  opt_state = optimizer.init(stochastic_rounding.widened(params))
  return TrainState(jnp.zeros((), jnp.int32), params, opt_state)


def dropout_key(seed: int) -> jax.Array:
  """Returns the key of a run's dropout, `train_step`'s `dropout_key`."""
  return jax.random.key(seed + 1)


def gradients(
  model: Model, microbatches: int = 1
) -> Callable[[Params, Batch, jax.Array], tuple[Params, Terms]]:
  """Returns a function of parameters, a batch and a key: gradient and terms.

  The terms of all microbatches are divided by the full batch's weights, so that
  their summed gradient is the full batch's, whatever the loss and however
  unevenly the targets are distributed; rows of one unit (`Loss.rows_per_unit`)
  stay together.

  Raises:
    ValueError: microbatches that do not divide the batch's units.
  """

  def objective(params, batch, key, weights=None):
    terms = model.terms(params, batch, key=key)
    return losses.objective(model.loss, terms, weights), terms

  differentiate = jax.grad(objective, has_aux=True)

  def of_batch(params, batch, key):
    if microbatches == 1:
      return differentiate(params, batch, key)
    # Weights do not depend on parameters: the compiler drops all the rest.
    terms = model.terms(jax.lax.stop_gradient(params), batch, key=key)
    weights = {name: term.weight for name, term in terms.items()}

    def add_microbatch(total, xs):
      microbatch, number = xs
      key_of_one = jax.random.fold_in(key, number)
      one = differentiate(params, microbatch, key_of_one, weights)
      return jax.tree.map(jnp.add, total, one), None

    pieces = _cut(batch, microbatches, model.loss.rows_per_unit)
    xs = (pieces, jnp.arange(microbatches))
    first = jax.tree.map(lambda x: x[0], pieces)
    shapes = jax.eval_shape(differentiate, params, first, key, weights)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add_microbatch, zeros, xs)[0]

  return of_batch


def train_step(
  model: Model,
  optimizer: optax.GradientTransformation,
  *,
  microbatches: int = 1,
  dropout_key: jax.Array,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """Returns the training step: a function of the state and a global batch.

  Microbatches give the gradient of the full batch (`gradients`). The dropout
  key is folded with the step, so that a resumed run has the same dropout as an
  uninterrupted one.

  A batch whose loss or gradient is not finite leaves parameters and optimizer
  as they are. Parameters kept in bfloat16 are updated in float32, and rounded
  at random.

  Raises:
    ValueError: microbatches that do not divide the batch's units.
  """

  gradients_of = gradients(model, microbatches)

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(dropout_key, state.step)
    params = stochastic_rounding.widened(state.params)
    grads, terms = gradients_of(params, batch, key)
    grad_norm = optax.tree.norm(grads)
    loss = losses.objective(model.loss, terms)
    finite = jnp.isfinite(grad_norm) & jnp.isfinite(loss)
    updates, opt_state = optimizer.update(grads, state.opt_state, params)
    params = stochastic_rounding.rounded(
      optax.apply_updates(params, updates),
      state.params,
      jax.random.split(key)[1],  # The key itself is that of dropout.
    )
    params, opt_state = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old),
      (params, opt_state),
      (state.params, state.opt_state),
    )
    param_norm = optax.tree.norm(stochastic_rounding.widened(params))
    skipped = Term(1.0 - finite, jnp.float32(1))
    return TrainState(state.step + 1, params, opt_state), Metrics(
      terms | {"skipped_steps": skipped},
      {"grad_norm": grad_norm, "param_norm": param_norm},
      checksums.of_batch(batch),
      token_counts.count(batch),
    )

  return step


def _cut(batch: Batch, number: int, rows_per_unit: int) -> Batch:
  """Returns [B, ...] as [number, B / number, ...], units of rows kept whole."""
  rows = len(jax.tree.leaves(batch)[0])
  if rows % (number * rows_per_unit):
    units = f" x {rows_per_unit} rows" if rows_per_unit > 1 else ""
    raise ValueError(
      f"batch size ({rows}) must be divisible by microbatches ({number}{units})"
    )

  def cut(x):
    # Microbatch i has units i, i + n, i + 2n, ...: each device keeps its rows.
    units = x.reshape(-1, number, rows_per_unit, *x.shape[1:]).swapaxes(0, 1)
    return units.reshape(number, -1, *x.shape[1:])

  return jax.tree.map(cut, batch)
