"""Losses of a classifier's logits: classes of texts or tokens, and rewards."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from t5x_lite.losses.terms import Term, Terms


def class_targets(
  batch: Mapping[str, jax.Array], segment: jax.Array
) -> jax.Array:
  """Returns the batch's classes, -1 for rows of padding alone.

  Raises:
    ValueError: the batch has no classes.
  """
  if "class_targets" not in batch:
    raise ValueError(
      "the loss needs class_targets in the batch: use a task that has them, or "
      "losses.CrossEntropy"
    )
  targets = batch["class_targets"]
  if targets.ndim > 1:
    return targets
  return jnp.where(jnp.any(segment != 0, axis=1), targets, -1)


def class_terms(logits: jax.Array, targets: jax.Array) -> Terms:
  """Returns "loss" (nats) and "accuracy" per scored class.

  Args:
    logits: float32 [..., classes], of at least two classes.
    targets: int32 [...]; -1 is not scored.

  Raises:
    ValueError: logits of one class, which are rewards.
  """
  if logits.shape[-1] == 1:
    raise ValueError(
      "Classifier.num_classes=1 gives rewards, which are compared in pairs: "
      "set Model.loss to losses.Reward()"
    )
  scored = (targets >= 0).astype(jnp.float32)
  at_target = jnp.take_along_axis(
    jax.nn.log_softmax(logits), jnp.maximum(targets, 0)[..., None], axis=-1
  )[..., 0]
  correct = jnp.argmax(logits, axis=-1) == targets
  weight = jnp.sum(scored)
  return {
    "loss": Term(-jnp.sum(at_target * scored), weight),
    "accuracy": Term(jnp.sum(correct * scored), weight),
  }


def reward_terms(logits: jax.Array, targets: jax.Array) -> Terms:
  """Returns "loss" and "accuracy" per pair of a chosen and a rejected text.

  Args:
    logits: float32 [B, 1], rewards; rows 2i and 2i + 1 are a pair.
    targets: int32 [B]: 1 chosen, 0 rejected, -1 padding.

  Raises:
    ValueError: an odd number of rows, or another number of classes.
  """
  rows, num_classes = logits.shape
  if rows % 2 or num_classes != 1:
    raise ValueError(
      f"rewards are of pairs of rows and one class, but there are {rows} rows "
      f"and {num_classes} classes: set an even batch_size and "
      "Classifier.num_classes=1"
    )
  pairs = targets.reshape(-1, 2)
  # A pair is one chosen and one rejected text, in either order.
  weights = (jnp.sort(pairs, axis=1) == jnp.array([0, 1])).all(axis=1)
  weights = weights.astype(jnp.float32)
  signs = 2 * pairs - 1
  differences = jnp.sum(logits.reshape(-1, 2) * signs, axis=1)
  weight = jnp.sum(weights)
  return {
    "loss": Term(-jnp.sum(jax.nn.log_sigmoid(differences) * weights), weight),
    "accuracy": Term(jnp.sum((differences > 0) * weights), weight),
  }


@dataclasses.dataclass(frozen=True)
class Classification:
  """Trains the classifier alone: cross-entropy of the batch's `class_targets`.

  Fine-tuning for sequence or token classification. Pretraining that adds a
  classifier to the language model's loss (BERT's next sentence) has it from
  `CrossEntropy.class_weight`.
  """

  rows_per_unit = 1
  reads_classes = True
  minimised = {"loss": 1.0, "moe_loss": 1.0}
  terms = staticmethod(class_terms)

  def __call__(self, model, params, batch, *, key=None) -> Terms:
    outputs = model.outputs(params, batch, key=key)
    targets = class_targets(batch, outputs.tokens.segment)
    return {**self.terms(outputs.class_logits, targets), **outputs.auxiliary}


@dataclasses.dataclass(frozen=True)
class Reward(Classification):
  """Trains a classifier of one class to prefer the chosen text of a pair.

  Rows 2i and 2i + 1 are a pair; `class_targets` is 1 for the chosen text, 0 for
  the rejected one and -1 for padding. The loss is -log sigmoid of the
  difference of their rewards (Ouyang et al. 2022, arXiv:2203.02155, Eq. 1).
  """

  rows_per_unit = 2
  terms = staticmethod(reward_terms)
