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

from tasks import windows
from tasks.evaluation import metrics
from tasks.text_to_text import TextToText, fill_templates, keep_end


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
  """Turns examples into text, and generated text into what metrics compare.

  Attributes:
    examples: makes a dataset with the strings "inputs" and "targets", and what
      `postprocess_fn` reads of an example.
    metric_fns: of (targets, predictions) or (targets, scores).
    postprocess_fn: of (text, example=..., is_target=...), or None for the text.
    continues: the targets continue the inputs. They follow without EOS, as in
      pretraining, and too long inputs lose their beginning, not their end.
  """

  examples: Callable[[tf.data.Dataset], tf.data.Dataset]
  metric_fns: Sequence[Callable] = ()
  postprocess_fn: Callable | None = None
  continues: bool = False

  @property
  def inputs_keep_end(self) -> bool:
    """Says which end of too long inputs goes (see tasks/task.py)."""
    return self.continues

  def output_features(
    self, vocabulary: seqio.Vocabulary
  ) -> Mapping[str, seqio.Feature]:
    return {
      "inputs": seqio.Feature(vocabulary, add_eos=not self.continues),
      "targets": seqio.Feature(vocabulary, add_eos=True),
    }

  def preprocessors(self) -> Sequence[Callable[..., tf.data.Dataset]]:
    return (
      self.examples,
      functools.partial(
        seqio.preprocessors.tokenize, copy_pretokenized=True, with_eos=False
      ),
      seqio.CacheDatasetPlaceholder(),
      *([keep_end] if self.inputs_keep_end else []),
      seqio.preprocessors.append_eos_after_trim,
    )


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

  Predictions are compared by number; what names no class is -1.
  """
  template = TextToText(
    inputs=inputs, targets="{label}", labels={"label": tuple(labels)}
  )
  return Benchmark(
    examples=functools.partial(fill_templates, objective=template),
    metric_fns=tuple(metric_fns),
    postprocess_fn=functools.partial(label_number, labels=tuple(labels)),
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
