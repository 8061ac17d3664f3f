"""Examines one step: its rows, parameters and gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from t5x_lite.devices.layout import Layout
from t5x_lite.files import trees
from t5x_lite.model import Batch, Model, Params
from t5x_lite.training import step as step_lib
from t5x_lite.training.run import Run
from t5x_lite.training.step import Metrics


class Findings(NamedTuple):
  """Holds what is found out about a step.

  Attributes:
    row_losses: the cross-entropy of each row, in nats per scored token, without
      dropout.
    parameter_norms: the norm of each parameter before the step, by name.
    gradient_norms: the norm of its gradient, as training computes it.
    first_not_finite: the first parameter whose gradient's norm is not finite.
  """

  row_losses: list[float]
  parameter_norms: dict[str, float]
  gradient_norms: dict[str, float]
  first_not_finite: str | None


def examiner(
  run: Run, model: Model, layout: Layout
) -> Callable[[Params, Any, Batch], Findings]:
  """Returns a function that examines a step.

  It takes the parameters before the step, the number of steps before it and the
  global batch; all processes must call it.
  """
  gradients = step_lib.gradients(model, run.microbatches)
  dropout_key = step_lib.dropout_key(run.seed)

  def compute(params, steps_before, batch):
    key = jax.random.fold_in(dropout_key, steps_before)
    gradient, _ = gradients(params, batch, key)
    rows = model.row_terms(params, batch)["loss"]
    norms = (jax.tree.map(optax.tree.norm, x) for x in (params, gradient))
    return rows.sum / jnp.maximum(rows.weight, 1e-9), *norms

  compiled = jax.jit(compute, out_shardings=layout.replicated())

  def examine(params, steps_before, batch) -> Findings:
    found = compiled(params, jnp.int32(steps_before), batch)
    rows, *norms = jax.tree.map(lambda x: np.asarray(x).tolist(), found)
    of_parameters, of_gradient = map(trees.named_leaves, norms)
    bad = (name for name, x in of_gradient.items() if not np.isfinite(x))
    return Findings(rows, of_parameters, of_gradient, next(bad, None))

  return examine


def loss_bits(metrics: Metrics) -> str:
  """Returns the bits of the loss's sum over the batch, in hexadecimal."""
  return np.asarray(metrics.terms["loss"].sum).tobytes().hex()
