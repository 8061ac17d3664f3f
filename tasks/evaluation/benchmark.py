"""Benchmark: an objective made of a format, a postprocessor and metrics.

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
  """Turns examples into text, and generated text into what metrics compare.

  Attributes:
    examples: makes a dataset with the strings "inputs" and "targets", and what
      `postprocess_fn` reads of an example.
    metric_fns: of (targets, predictions) or (targets, scores).
    likelihood_fns: of (scores, is_greedy), as likelihoods.py has them.
    postprocess_fn: of (text, example=..., is_target=...), or None for the text.
    pair: how inputs and targets are encoded.
    read_row: of a row of JSON; returns the fields that `examples` reads, or
      says in a ValueError which of them is wrong. None takes all as they are.
  """

  examples: Callable[[tf.data.Dataset], tf.data.Dataset]
  metric_fns: Sequence[Callable] = ()
  likelihood_fns: Sequence[Callable] = ()
  postprocess_fn: Callable | None = None
  pair: pairs.Apart | pairs.Joined = pairs.Apart()
  read_row: Callable[[Mapping], dict] | None = None

  @property
  def metric_objs(self) -> Sequence[type[seqio.metrics.CollectingMetric]]:
    """Returns `likelihood_fns` as seqio takes them."""
    return [likelihoods.metric(function) for function in self.likelihood_fns]

  @property
  def delimiter(self) -> str:
    """Returns what stands between inputs and targets of one text."""
    return getattr(self.pair, "delimiter", " ")

  def output_features(
    self, vocabulary: seqio.Vocabulary
  ) -> Mapping[str, seqio.Feature]:
    return self.pair.output_features(vocabulary)

  def preprocessors(self) -> Sequence[Callable[..., tf.data.Dataset]]:
    return (self.examples, *self.pair.preprocessors())


def per_example(function: Callable[[Mapping], Mapping]) -> Callable:
  """Returns a step that maps each example by itself."""
  return lambda dataset: dataset.map(
    function, num_parallel_calls=windows.AUTOTUNE
  )


def classification(
  inputs: str,
  labels: Sequence[str],
  metric_fns: Sequence[Callable] = (metrics.accuracy,),
) -> Benchmark:
  """Returns a benchmark whose targets are the name of the field "label".

  Predictions are compared by number; what names no class is -1. They end with
  their line.
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
  """Returns the place of a text among the labels, or -1."""
  return labels.index(text) if text in labels else -1


def as_text(value) -> str:
  """Returns the text of bytes, as examples hold it."""
  return tf.compat.as_text(value)


def field(example: Mapping, outer: str, inner: str) -> tf.Tensor:
  """Returns a nested field: of TFDS's dicts, or of files as "idx/query"."""
  joined = f"{outer}/{inner}"
  return example[joined] if joined in example else example[outer][inner]
