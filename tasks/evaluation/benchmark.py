"""Defines Benchmark: a text format, a postprocessor and metrics.

example   {"sentence": "A fine film.", "label": 1}
examples  {"inputs": "sst2 sentence: A fine film.", "targets": "positive"}
decoded   "positive"   postprocessed   1   metrics   {"accuracy": 100.0}
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from tasks import pairs, windows
from tasks.evaluation import likelihoods, metrics, rows
from tasks.metrics import until
from tasks.text_to_text import TextToText, fill_templates


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
  """Formats examples as text, and postprocesses generated text for metrics.

  Attributes:
    examples: maps a dataset to one with the strings "inputs" and "targets", and
      the fields that `postprocess_fn` reads.
    metric_fns: functions of (targets, predictions) or (targets, scores).
    likelihood_fns: functions of (scores, is_greedy), see likelihoods.py.
    postprocess_fn: a function of (text, example=..., is_target=...); None keeps
      the text.
    pair: how inputs and targets are encoded.
    read_row: maps a row of JSON to the fields that `examples` reads, or raises
      a ValueError that names a wrong field. None takes rows unchecked.
  """

  examples: Callable[[tf.data.Dataset], tf.data.Dataset]
  metric_fns: Sequence[Callable] = ()
  likelihood_fns: Sequence[Callable] = ()
  postprocess_fn: Callable | None = None
  pair: pairs.Apart | pairs.Joined = pairs.Apart()
  read_row: Callable[[Mapping], dict] | None = None

  @property
  def metric_objs(self) -> Sequence[type[seqio.metrics.CollectingMetric]]:
    """Returns `likelihood_fns` as seqio metric objects."""
    return [likelihoods.metric(function) for function in self.likelihood_fns]

  @property
  def delimiter(self) -> str:
    """Returns the text between inputs and targets that continue them."""
    return getattr(self.pair, "delimiter", " ")

  def output_features(
    self, vocabulary: seqio.Vocabulary
  ) -> Mapping[str, seqio.Feature]:
    return self.pair.output_features(vocabulary)

  def preprocessors(self) -> Sequence[Callable[..., tf.data.Dataset]]:
    return (self.examples, *self.pair.preprocessors())


def per_example(function: Callable[[Mapping], Mapping]) -> Callable:
  """Returns a preprocessor that maps each example separately."""
  return lambda dataset: dataset.map(
    function, num_parallel_calls=windows.AUTOTUNE
  )


def classification(
  inputs: str,
  labels: Sequence[str],
  metric_fns: Sequence[Callable] = (metrics.accuracy,),
) -> Benchmark:
  """Returns a classification benchmark; targets are the names of "label".

  A prediction is the text up to the end of its first line. Predictions are
  compared by class number; a text that is not a class name is -1.
  """
  template = TextToText(
    inputs=inputs, targets="{label}", labels={"label": tuple(labels)}
  )
  return Benchmark(
    examples=functools.partial(fill_templates, objective=template),
    metric_fns=tuple(metric_fns),
    postprocess_fn=until(
      "\n", functools.partial(label_number, labels=tuple(labels))
    ),
    read_row=rows.of_template(template),
  )


def label_number(text: str, *, labels: Sequence[str], **unused_kwargs) -> int:
  """Returns the index of a text among the labels, or -1."""
  return labels.index(text) if text in labels else -1


def as_text(value) -> str:
  """Decodes the bytes of an example's field as text."""
  return tf.compat.as_text(value)


def field(example: Mapping, outer: str, inner: str) -> tf.Tensor:
  """Returns a nested field: a dict in TFDS, or "idx/query" in JSON files."""
  joined = f"{outer}/{inner}"
  return example[joined] if joined in example else example[outer][inner]
