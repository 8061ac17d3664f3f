"""Computes the metrics that seqio tasks have, of predictions and of scores."""

import contextlib
import functools

import jax
import numpy as np
import seqio
from absl import logging

from t5x_lite import decoding
from t5x_lite.data import (
  batch_iterator,
  feature_converters,
  sentinels,
  task_examples,
)
from t5x_lite.data.reader import Reader
from t5x_lite.devices.layout import Layout
from t5x_lite.inference import batched
from t5x_lite.inference import blanks as blanks_lib
from t5x_lite.model import Model, Params

Metrics = dict[str, float]


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

  An encoder's prediction is its inputs with the masks filled in, and GLM's has,
  from left to right, each blank and what fills it (inference/blanks.py).

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
  row_format = model.row_format
  blanks = blanks_lib.KINDS[row_format.blanks(task.features)]
  sampler = blanks.strategy(sampler, task.vocabulary)
  drawable = blanks.drawable(task.vocabulary)
  constraints = constraints.unbounded()

  def prompts(batch):
    return blanks.prompts(row_format, batch, task.vocabulary)

  def generate(batch, row_ids):
    found = decoding.generate(
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
    return found if blanks.is_free else found | _shown(row_format, batch)

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
    for ids, rows in run(generate, dataset, prompts):
      # Any end id becomes EOS, since the vocabulary decodes up to its EOS.
      ended = np.isin(rows["tokens"], constraints.ends)
      tokens = np.where(ended, eos_id or 0, rows["tokens"])
      if not blanks.is_free:
        rows["tokens"] = tokens
        ends = 0 if row_format.shares_row or not task.starts["around"] else 1
        tokens = _answers(blanks, rows, eos_id, ends=ends)
      predictions += zip(ids.tolist(), tokens, strict=True)
      scores += rows["log_probs"].sum(axis=-1, dtype=np.float64).tolist()
    return _padded(predictions), {"scores": scores}

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


def _shown(row_format, batch):
  """Returns what `Blanks.answer` needs of prompts, [B, T] each."""
  side = row_format.scored_side
  names = {
    "ids": "input_tokens", "is_blank": "loss_weights", "inside": "segment_ids"
  }  # fmt: skip
  return {name: batch[f"{side}_{key}"] for name, key in names.items()}


def _answers(blanks, rows, eos_id, *, ends):
  """Returns the ids of each prediction, without `ends` tokens on each side."""
  answers = []
  for i, length in enumerate(rows["lengths"]):
    inside = rows["inside"][i] > 0
    ids, _ = blanks.answer(
      rows["ids"][i][inside],
      rows["is_blank"][i][inside] > 0,
      rows["tokens"][i][:length].tolist(),
      (eos_id,),
    )
    answers.append(ids[ends : len(ids) - ends])
  return answers


def _padded(predictions):
  """Pads predictions to one length, as Evaluator makes an array of them."""
  longest = max((len(tokens) for _, tokens in predictions), default=0)
  return [
    (i, np.pad(np.asarray(tokens, np.int32), (0, longest - len(tokens))))
    for i, tokens in predictions
  ]


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
