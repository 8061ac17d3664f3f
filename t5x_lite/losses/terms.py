"""The Loss protocol: what a model minimises, as sums with their weights.

A loss returns terms by name, each a sum over the batch and the weight that
divides it. Sums and weights add up over microbatches, processes and steps, so
however a batch is cut, the pieces give the full batch's means. They also give
its gradient, since a weight never depends on parameters.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp


class Term(NamedTuple):
  """A quantity that is reported or minimised: sum / weight.

  Attributes:
    sum: float32, a scalar; or one entry per layer, and `mean` adds their means.
    weight: float32, of the same shape; a function of the batch alone.
  """

  sum: jax.Array
  weight: jax.Array

  def mean(self, weight: jax.Array | None = None) -> jax.Array:
    """Returns sum / weight, 0 where nothing has weight.

    Args:
      weight: the full batch's, where `sum` is one microbatch's.
    """
    weight = self.weight if weight is None else weight
    return jnp.sum(self.sum * (1.0 / jnp.maximum(weight, 1e-9)))


Terms = Mapping[str, Term]


class Loss(Protocol):
  """Scores a batch under a model.

  Attributes:
    minimised: name of a term -> its coefficient in the objective; names that a
      batch has no term of are left out.
    rows_per_unit: how many rows, one after the other, belong together: they
      stay in one microbatch (2 for the pairs of `Reward`).
    reads_classes: whether batches need `class_targets`.
  """

  rows_per_unit: int
  reads_classes: bool

  @property
  def minimised(self) -> Mapping[str, float]: ...

  def __call__(
    self,
    model: Any,
    params: Any,
    batch: Mapping[str, jax.Array],
    *,
    key: jax.Array | None = None,
  ) -> Terms:
    """Returns the terms of a batch.

    "loss" (nats) is always among them, weighted by what it averages: tokens,
    texts or pairs.

    Args:
      model: a Model; its `outputs` are what is scored.
      params: of the model.
      batch: arrays [B, ...] by seqio's names.
      key: in training, the key of dropout and jitter; None in evaluation.
    """
    ...


def objective(
  loss: Loss, terms: Terms, weights: Mapping[str, jax.Array] | None = None
) -> jax.Array:
  """Returns what is minimised: the coefficients times the terms' means.

  Args:
    loss: the loss that gave `terms`.
    terms: of a batch or a microbatch.
    weights: the full batch's weights by term, where `terms` are a microbatch's.
  """
  weights = weights or {}
  if not loss.minimised.keys() & terms.keys():
    raise ValueError(
      f"{type(loss).__name__}.minimised names none of the terms: "
      f"{', '.join(sorted(terms))}"
    )
  parts = [
    coefficient * terms[name].mean(weights.get(name))
    for name, coefficient in loss.minimised.items()
    if name in terms
  ]
  return sum(parts[1:], parts[0])


def sown_terms(sown: Any) -> dict[str, Term]:
  """Returns the terms that modules sowed, all layers of a name in one."""
  layers = jax.tree.leaves(sown, is_leaf=lambda x: "weight" in x)
  if not layers:
    return {}
  parts = (
    jnp.concatenate([layer[name].ravel() for layer in layers])
    for name in ("sum", "weight")
  )
  return {"moe_loss": Term(*parts)}
