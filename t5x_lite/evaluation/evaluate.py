"""Computes the loss on held-out batches, and tasks' own metrics."""

import contextlib
import functools
import math
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import seqio
from absl import logging
from etils import epath

from t5x_lite import decoding
from t5x_lite.data import (
  batch_iterator,
  feature_converters,
  sentinels,
  task_examples,
)
from t5x_lite.data.reader import Reader
from t5x_lite.devices.layout import Layout
from t5x_lite.evaluation.held_out import HeldOut
from t5x_lite.files import disk, json_text
from t5x_lite.files.slow import announced
from t5x_lite.inference import batched
from t5x_lite.losses import Term
from t5x_lite.model import Model, Params

Metrics = dict[str, float]


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


def task_metrics(
  model: Model,
  params: Params,
  reader: Reader,
  *,
  layout: Layout | None = None,
  sampler: decoding.Strategy = decoding.GREEDY,
  constraints: decoding.Constraints = decoding.UNCONSTRAINED,
  max_new_tokens: int | None = None,
  seed: int = 0,
) -> Metrics:
  """Computes the metric functions of a task with seqio.Evaluator.

  Predictions are generated from the inputs; scores are log-likelihoods of the
  targets. A predict_with_aux metric also gets "scores", of its predictions. A
  metric of scores with intermediates gets "is_greedy": whether all tokens of
  the targets are the most probable ones.

  Args:
    model: a Model.
    params: its parameters.
    reader: the data, of a task, not a mixture; the first `num_batches` unpacked
      batches of examples are used once, in order.
    layout: the devices; None means one device.
    sampler: chooses the tokens of predictions.
    constraints: the constraints on predictions; their lengths are ignored.
    max_new_tokens: the maximum length of a prediction; None means the length of
      the targets.
    seed: the seed of the sampler.

  Returns:
    {METRIC: value} for metrics that are numbers, and "num_examples"; empty if
    the task has no metric functions.
  """
  spec, task, lengths = reader.spec, reader.task, reader.lengths
  if not task.provider.metric_objs:
    return {}
  # Evaluator truncates in its own way, but leaves alone what a preprocessor has
  # truncated. If no preprocessor does, it gets no lengths, and we truncate.
  cuts = task_examples.length_preprocessors(task.provider)
  with _quiet(), batch_iterator.plain_errors(task.name):
    evaluator = seqio.Evaluator(
      task.name,
      _UnpackedConverter(reader),
      eval_split=spec.split,
      sequence_length=lengths if cuts else {},
      num_examples=spec.num_batches and spec.num_batches * spec.batch_size,
      seed=spec.seed,
      async_compute_metrics=False,
    )
  max_new_tokens = max_new_tokens or lengths["targets"]
  key = jax.random.key(seed, impl="threefry2x32")
  eos_id = sentinels.eos_id(task.vocabulary)
  drawable = sentinels.known_ids(task.vocabulary)
  constraints = constraints.unbounded()

  def generate(batch, row_ids):
    return decoding.generate(
      model,
      params,
      batch,
      max_new_tokens=max_new_tokens,
      sampler=sampler,
      key=key,
      eos_id=eos_id,
      constraints=constraints,
      row_ids=row_ids,
      drawable=drawable,
    ).arrays()

  def run(function, dataset, arrange):
    batch_size = batched.round_up(spec.batch_size, layout)
    batches = dataset.batch(batch_size).as_numpy_iterator()
    return batched.compute(
      function,
      ((ids.astype(np.int32), arrange(batch)) for ids, batch in batches),
      batch_size=batch_size,
      layout=layout,
    )

  def predict_with_scores(dataset):
    predictions, scores = [], []
    for ids, rows in run(generate, dataset, model.row_format.prompts):
      # Padded with zeros to one length, as Evaluator makes an array of them.
      # Any end id becomes EOS, since the vocabulary decodes up to its EOS.
      ended = np.isin(rows["tokens"], constraints.ends)
      tokens = np.where(ended, eos_id or 0, rows["tokens"])
      predictions += zip(ids.tolist(), tokens, strict=True)
      scores += rows["log_probs"].sum(axis=-1, dtype=np.float64).tolist()
    return predictions, {"scores": scores}

  def score(dataset):
    def scores(batch, row_ids):
      del row_ids
      return {"scores": _scores(model, params, batch)}

    found = []
    for ids, rows in run(scores, dataset, dict):
      found += zip(ids.tolist(), rows["scores"].tolist(), strict=True)
    return found

  def score_with_greedy(dataset):
    def sums(batch, row_ids):
      del row_ids
      return _row_sums(model, params, batch)

    found, is_greedy = [], []
    for ids, rows in run(sums, dataset, dict):
      found += zip(ids.tolist(), (-rows["loss"]).tolist(), strict=True)
      is_greedy += (rows["correct"] == rows["weight"]).tolist()
    return found, {"is_greedy": is_greedy}

  kinds = seqio.metrics.ModelOutputType
  with batch_iterator.plain_errors(task.name):
    all_metrics, _ = evaluator.evaluate(
      compute_metrics=True,
      model_fns={
        kinds.PREDICTION: lambda dataset: predict_with_scores(dataset)[0],
        kinds.PREDICTION_WITH_AUX: predict_with_scores,
        kinds.SCORE: score,
        kinds.SCORE_WITH_INTERMEDIATES: score_with_greedy,
      },
    )
  found = _numbers(all_metrics.result()[task.name])
  examples = evaluator.cached_task_datasets[task.name]
  return {**found, "num_examples": len(list(examples.as_numpy_iterator()))}


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


@functools.partial(jax.jit, static_argnums=0)
def _scores(model, params, batch):
  return model.score(params, batch)


@functools.partial(jax.jit, static_argnums=0)
def _row_sums(model, params, batch):
  """Returns the loss, correct targets and weight of each row, [B] each."""
  terms = model.row_terms(params, batch)
  loss, correct = terms["loss"], terms["accuracy"]
  return {"loss": loss.sum, "correct": correct.sum, "weight": loss.weight}


def _numbers(metrics):
  """Returns the metrics that are single numbers."""
  numbers = {}
  for name, value in metrics.items():
    value = value.value if isinstance(value, seqio.metrics.Scalar) else value
    if not isinstance(value, seqio.metrics.MetricValue) and np.ndim(value) == 0:
      numbers[name] = float(value)
  return numbers


@contextlib.contextmanager
def _quiet():
  """Silences Evaluator's warnings about lengths, which are as intended."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)


class _UnpackedConverter:
  """Converts examples for Evaluator, truncated as in training.

  Evaluator passes all output features of a task, with their lengths, also those
  that only its metrics read, which are not part of a row.
  """

  pack = False

  def __init__(self, reader: Reader):
    self._reader = reader
    self._convert = feature_converters.converter(
      reader.row_format, pack=False, **reader.task.starts
    )
    self.TASK_FEATURES = self._convert.TASK_FEATURES

  def __call__(self, ds, lengths):
    del lengths
    task, lengths = self._reader.task.provider, self._reader.lengths
    ds = task_examples.fit(ds, task, lengths, self._reader.row_format)
    return self._convert(ds, lengths)
