"""Evaluates a model on held-out batches: the loss, and tasks' own metrics."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from t5x_lite import decoding
from t5x_lite.devices.layout import Layout
from t5x_lite.evaluation.held_out import HeldOut
from t5x_lite.evaluation.metrics import Metrics, task_metrics
from t5x_lite.files import disk, json_text
from t5x_lite.files.slow import announced
from t5x_lite.inference import batched
from t5x_lite.losses import Term
from t5x_lite.model import Model, Params


def evaluate(
  model: Model,
  params: Params,
  data: Sequence[HeldOut],
  *,
  layout: Layout | None = None,
  metric_fns: bool = True,
  sampler: decoding.Strategy = decoding.GREEDY,
  constraints: decoding.Constraints = decoding.UNCONSTRAINED,
  max_new_tokens: int | None = None,
) -> Metrics:
  """Evaluates a model on the held-out batches of each task.

  Args:
    model: a Model.
    params: its parameters, sharded by `layout`.
    data: from `held_out.held_out`; it caches batches for the next call.
    layout: the devices; None means one device.
    metric_fns: whether to compute the tasks' own metrics, if they have any.
    sampler, constraints, max_new_tokens: for these metrics, as in
      `task_metrics`.

  Returns:
    {"TASK/METRIC": value}: the metrics of `teacher_forced`, "unigram_entropy"
    of the same targets, and the metrics of `task_metrics`, which override those
    of the same name, with their number of examples as "metric_examples". If a
    task is read for several epochs, "num_epochs" is their number: each example
    is counted that often.
  """
  results = {}
  for batches in data:
    task = batches.reader.task.name
    with announced(f"computing the loss on {task}"):
      metrics = teacher_forced(model, params, batches, layout=layout)
    metrics["unigram_entropy"] = batches.unigram_entropy
    if (num_epochs := batches.reader.spec.num_epochs) > 1:
      metrics["num_epochs"] = num_epochs
    if metric_fns:
      with announced(f"generating and scoring for the metrics of {task}"):
        own = task_metrics(
          model,
          params,
          batches.reader,
          layout=layout,
          sampler=sampler,
          constraints=constraints,
          max_new_tokens=max_new_tokens,
        )
      if own:
        metrics["metric_examples"] = own.pop("num_examples")
      metrics |= own
    results |= {f"{task}/{name}": value for name, value in metrics.items()}
  return results


def teacher_forced(
  model: Model,
  params: Params,
  batches: Iterable[Mapping[str, np.ndarray]],
  *,
  layout: Layout | None = None,
) -> Metrics:
  """Computes the teacher-forced loss and accuracy on some batches.

  Args:
    model: a Model.
    params: its parameters.
    batches: this process's rows of each batch; all processes have the same
      number of batches.
    layout: the devices; None means one device.

  Returns:
    "loss" (nats per target token), "perplexity", "accuracy" (the fraction of
    targets that are the most probable token; ties go to the lowest id),
    "tokens", the means of all other terms of the model's loss, "num_examples"
    and "num_batches". Under a loss of classes or pairs, "loss" and "tokens"
    count those.
  """
  totals, waiting, num_batches = {}, {}, 0
  for batch in batches:
    num_batches += 1
    with batched.active(layout):
      if layout is not None:
        batch = layout.shard_batch(batch)
      # A program of its own: on emulated devices, two sums over devices that
      # do not depend on each other may wait for each other for ever.
      examples = Term(_num_examples(batch), jnp.float32(1))
      terms = {**_terms(model, params, batch), "num_examples": examples}
    _add(totals, waiting)  # one batch late, to keep the device busy
    waiting = terms
  _add(totals, waiting)
  weight = totals["loss"][1] if totals else 0
  if not weight:
    raise ValueError("no token of the evaluation batches has a loss weight")
  num_examples = totals.pop("num_examples")[0]
  # Sums that are zero, such as the z-loss of a model without one, are left out.
  means = {
    name: float(np.sum(sums / np.maximum(weights, 1e-9)))
    for name, (sums, weights) in totals.items()
    if np.any(sums) or name == "accuracy"
  }
  # It depends on the loss normaliser.
  means.pop("objective", None)
  loss = totals["loss"][0] / weight
  return means | {
    "loss": float(loss),
    "perplexity": math.exp(min(loss, 700.0)),
    "tokens": float(weight),
    "num_examples": float(num_examples),
    "num_batches": num_batches,
  }


@functools.partial(jax.jit, static_argnums=0)
def _terms(model, params, batch):
  return model.terms(params, batch)


@jax.jit
def _num_examples(batch):
  """Counts a batch's examples: the segments of its rows, without padding."""
  segments = [x for name, x in batch.items() if name.endswith("_segment_ids")]
  if not segments:
    return jnp.int32(len(next(iter(batch.values()))))
  return jnp.sum(jnp.concatenate(segments, axis=1).max(axis=1))


def _add(totals, terms):
  # Summed in float64: a float32 cannot count tokens beyond 2 ** 24.
  for name, term in terms.items():
    added = np.array([np.asarray(x, np.float64) for x in term])
    totals[name] = totals.get(name, 0.0) + added


def write(metrics: Metrics, path: str) -> None:
  """Writes metrics to a JSON file atomically, from process 0.

  Values that are not finite are written as null, with a warning.

  Raises:
    ValueError: the file cannot be written.
  """
  if jax.process_index() != 0:
    return
  path = epath.Path(path)
  try:
    text = json_text.dumps(metrics, what=path.name, indent=2, sort_keys=True)
    disk.write_text(path, f"{text}\n")
  except OSError as e:
    raise ValueError(f"cannot write {path}: {e.strerror or e}") from None
