"""Computes metrics of filled blanks, in percent, for seqio.Evaluator.

    inputs       a M c M        a M d M
    targets      a b c d        e f $ b c $      positions  3 3 3 1 1 1
    prediction   a b c x        M b c M e        from left to right
    correct      1 of 2 masks   1 of 2 blanks

They read ids, as decoded text does not say where a blank was: MLM's predictions
are the filled inputs, GLM's are blanks and what fills them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio

from t5x_lite.data import sentinels
from tasks import metrics

Example = Mapping[str, np.ndarray]


def mask_filling(
  examples: Iterable[Example], predictions: np.ndarray, vocabulary: Any
) -> Mapping[str, float]:
  """Returns the percentage of masks, and of examples, that are all correct.

  Args:
    examples: of MLM.
    predictions: the inputs of each with its masks filled in, [examples, T].
    vocabulary: the task's.
  """
  _, mask_id = sentinels.mask(vocabulary)
  found = []
  for example, tokens in zip(examples, predictions, strict=True):
    inputs, targets = (
      example[name][: len(tokens)] for name in ("inputs", "targets")
    )
    is_same = tokens[: len(inputs)] == targets
    found.append(is_same[inputs == mask_id])
  found = [one for one in found if len(one)]
  return {
    "mask_accuracy": _percent(np.concatenate([*found, []])),
    "sequence_accuracy": _percent([one.all() for one in found]),
  }


def blank_filling(
  examples: Iterable[Example], predictions: np.ndarray, vocabulary: Any
) -> Mapping[str, float]:
  """Returns `metrics.infilling` of the blanks, from left to right.

  Args:
    examples: of GLM.
    predictions: each blank and what fills it, then zeros, [examples, T].
    vocabulary: the task's.
  """
  return metrics.infilling(
    [_decoded(_true_spans(x), vocabulary) for x in examples],
    [_decoded(_spans(x, vocabulary), vocabulary) for x in predictions],
  )


def _true_spans(example) -> list[np.ndarray]:
  places = example["positions"]
  return [example["targets"][places == place] for place in np.unique(places)]


def _spans(tokens, vocabulary) -> Sequence[np.ndarray]:
  blanks = np.isin(tokens, sentinels.sentinel_ids(vocabulary))
  (starts,) = np.nonzero(blanks)
  return [span[1:] for span in np.split(tokens, starts)[1:]]


def _decoded(spans, vocabulary) -> dict[int, str]:
  texts = (sentinels.decode(vocabulary, np.trim_zeros(x, "b")) for x in spans)
  return {number: text.strip() for number, text in enumerate(texts)}


def _percent(values) -> float:
  return 100.0 * float(np.mean(values)) if len(values) else 0.0


@dataclasses.dataclass(frozen=True)
class Metric:
  """Gives a function the ids of predictions, as an Evaluator's metric.

  Attributes:
    function: maps (examples, predictions, vocabulary) to metrics.
  """

  function: Callable[..., Mapping[str, float]]
  model_output_type = seqio.metrics.ModelOutputType.PREDICTION

  @property
  def __name__(self) -> str:
    return self.function.__name__

  def from_model_output(
    self, inputs, model_output, features, target_field_name="targets"
  ) -> _Found:
    vocabulary = features[target_field_name].vocabulary
    return _Found(self.function(inputs, model_output, vocabulary))


@dataclasses.dataclass(frozen=True)
class _Found:
  """Holds the values of a metric, for an Evaluator to compute."""

  values: Mapping[str, float]

  def compute(self) -> Mapping[str, float]:
    return self.values


MASKS, BLANKS = Metric(mask_filling), Metric(blank_filling)
