"""Computes metrics of generated text, in percent, for seqio.Evaluator."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence

from t5x_lite.data import sentinels


def sequence_accuracy(
  targets: Sequence[str], predictions: Sequence[str]
) -> Mapping[str, float]:
  """Returns the percentage of exact matches, ignoring surrounding space."""
  return {"sequence_accuracy": _mean(map(_same, targets, predictions))}


def continuation(
  targets: Sequence[str], predictions: Sequence[str]
) -> Mapping[str, float]:
  """Returns exact match and word F1 of continuations."""
  return {
    "sequence_accuracy": _mean(map(_same, targets, predictions)),
    "token_f1": _mean(map(token_f1, targets, predictions)),
  }


def until(stop: str, read: Callable | None = None) -> Callable:
  """Returns a postprocessor that truncates predictions at a stop string.

    "7\\n\\n1+1= 2"   until "\\n\\n"   "7"

  Args:
    stop: the end of a prediction, as in lm-evaluation-harness; white space
      around the prediction is stripped.
    read: a second postprocessor, for predictions and targets; or None.
  """

  def postprocess(text: str, *, example=None, is_target: bool = False):
    if not is_target:
      text = text.partition(stop)[0].strip()
    return read(text, example=example, is_target=is_target) if read else text

  return postprocess


def spans(text: str, **unused_kwargs) -> Mapping[int, str]:
  """Parses "<extra_id_0> a b <extra_id_1> c" as {0: "a b", 1: "c"}.

  If a sentinel occurs twice, its first span is used.
  """
  _, *parts = sentinels.SENTINEL.split(text)
  found = {}
  for number, span in zip(parts[::2], parts[1::2], strict=True):
    found.setdefault(int(number), span.strip())
  return found


def infilling(
  targets: Sequence[Mapping[int, str]],
  predictions: Sequence[Mapping[int, str]],
) -> Mapping[str, float]:
  """Compares predicted spans with the targets, both parsed by `spans`.

  `span_accuracy` is the percentage of spans that match exactly, `token_f1` the
  mean word F1 per span (a missing span counts 0), and `sequence_accuracy` the
  percentage of examples whose spans all match.
  """
  pairs = [
    (truth[number], prediction.get(number))
    for truth, prediction in zip(targets, predictions, strict=True)
    for number in truth
  ]
  return {
    "sequence_accuracy": _mean(
      truth == prediction
      for truth, prediction in zip(targets, predictions, strict=True)
    ),
    "span_accuracy": _mean(truth == filled for truth, filled in pairs),
    "token_f1": _mean(
      0.0 if filled is None else token_f1(truth, filled)
      for truth, filled in pairs
    ),
  }


def token_f1(truth: str, prediction: str) -> float:
  """Returns the F1 of two bags of words; 1 if both are empty."""
  truth_words, words = truth.split(), prediction.split()
  if not truth_words or not words:
    return float(truth_words == words)
  shared = collections.Counter(truth_words) & collections.Counter(words)
  return 2 * shared.total() / (len(truth_words) + len(words))


def _same(truth: str, prediction: str) -> bool:
  return truth.strip() == prediction.strip()


def _mean(values) -> float:
  values = list(values)
  return 100.0 * sum(values) / len(values) if values else 0.0
