"""Computes the metrics of published benchmarks, in percent.

All but the rank metrics compare postprocessed targets with postprocessed
predictions. Libraries are imported inside functions: scikit-learn alone takes a
second.
"""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Mapping, Sequence

import numpy as np

from tasks import metrics

# The target of a question without an answer (SQuAD 2.0).
NO_ANSWER = "unanswerable"


def accuracy(targets: Sequence, predictions: Sequence) -> Mapping[str, float]:
  """Returns the percentage of predictions that equal their targets."""
  pairs = zip(targets, predictions, strict=True)
  return {"accuracy": _percent(t == p for t, p in pairs)}


def matthews_correlation(
  targets: Sequence[int], predictions: Sequence[int]
) -> Mapping[str, float]:
  """Returns Matthews' correlation of two classes.

  For CoLA: Warstadt et al. 2019, arXiv:1805.12471.
  """
  from sklearn import metrics as sklearn_metrics

  value = sklearn_metrics.matthews_corrcoef(targets, predictions)
  return {"matthews_corrcoef": 100.0 * value}


def f1(
  targets: Sequence[int], predictions: Sequence[int]
) -> Mapping[str, float]:
  """Returns the F1 of class 1 of two classes; other predictions are wrong."""
  from sklearn import metrics as sklearn_metrics

  predictions = [
    p if p in (0, 1) else 1 - t
    for t, p in zip(targets, predictions, strict=True)
  ]
  return {
    "f1": 100.0
    * sklearn_metrics.f1_score(targets, predictions, zero_division=0.0)
  }


def mean_3class_f1(
  targets: Sequence[int], predictions: Sequence[int]
) -> Mapping[str, float]:
  """Returns the mean F1 of three classes (CB of SuperGLUE)."""
  from sklearn import metrics as sklearn_metrics

  value = sklearn_metrics.f1_score(
    targets, predictions, labels=range(3), average="macro", zero_division=0.0
  )
  return {"mean_3class_f1": 100.0 * value}


def correlations(
  targets: Sequence[float], predictions: Sequence[float]
) -> Mapping[str, float]:
  """Returns Pearson's and Spearman's correlation of numbers."""
  from scipy import stats

  return {
    "pearson_corrcoef": 100.0 * stats.pearsonr(targets, predictions)[0],
    "spearman_corrcoef": 100.0 * stats.spearmanr(targets, predictions)[0],
  }


def multirc(
  targets: Sequence[tuple[int, int]], predictions: Sequence[int]
) -> Mapping[str, float]:
  """Returns MultiRC's F1 over answers and exact match over questions.

  A target is (question, label). Khashabi et al. 2018; the metrics are those of
  SuperGLUE.
  """
  is_right = collections.defaultdict(list)
  for (question, label), prediction in zip(targets, predictions, strict=True):
    is_right[question].append(label == prediction)
  return {
    **f1([label for _, label in targets], predictions),
    "exact_match": _percent(map(all, is_right.values())),
  }


def record(
  targets: Sequence[tuple], predictions: Sequence[str]
) -> Mapping[str, float]:
  """Returns SQuAD's metrics for ReCoRD, counting each query once.

  A target is (query, answers). A query has one example per answer, of which the
  first counts.
  """
  first = {}
  for (query, answers), prediction in zip(targets, predictions, strict=True):
    first.setdefault(query, (answers, prediction))
  return squad(*zip(*first.values(), strict=True)) if first else squad([], [])


def squad(
  targets: Sequence[Sequence[str]], predictions: Sequence[str]
) -> Mapping[str, float]:
  """Returns exact match and word F1, each with the best matching answer.

  Case, punctuation, articles and spaces are ignored. For a question without an
  answer, an empty prediction or NO_ANSWER is correct.
  Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1, and 2018,
  arXiv:1806.03822, section 4.
  """
  exact, overlap = [], []
  for truths, prediction in zip(targets, predictions, strict=True):
    if not truths:
      is_right = _normalize(prediction) in ("", NO_ANSWER)
      exact.append(is_right)
      overlap.append(is_right)
      continue
    truths, prediction = map(_normalize, truths), _normalize(prediction)
    pairs = [(truth == prediction, _f1(truth, prediction)) for truth in truths]
    exact.append(max((is_same for is_same, _ in pairs), default=False))
    overlap.append(max((score for _, score in pairs), default=0.0))
  return {"em": _percent(exact), "f1": _percent(overlap)}


def rouge(
  targets: Sequence[str], predictions: Sequence[str]
) -> Mapping[str, float]:
  """Returns the mean F-measures of ROUGE-1, ROUGE-2 and ROUGE-Lsum.

  Lsum is computed by sentences, which end in " . " (CNN/DM). Lin 2004.
  """
  from rouge_score import rouge_scorer

  kinds = ("rouge1", "rouge2", "rougeLsum")
  scorer = rouge_scorer.RougeScorer(kinds)
  scores = [
    scorer.score(*(text.replace(" . ", " .\n") for text in pair))
    for pair in zip(targets, predictions, strict=True)
  ]
  return {
    kind: _percent(score[kind].fmeasure for score in scores) for kind in kinds
  }


def bleu(
  targets: Sequence[str], predictions: Sequence[str]
) -> Mapping[str, float]:
  """Returns the corpus BLEU of translations, with SacreBLEU's "intl" tokens.

  Post 2018, arXiv:1804.08771.
  """
  import sacrebleu

  score = sacrebleu.corpus_bleu(
    list(predictions), [list(targets)], smooth_method="exp", tokenize="intl"
  )
  return {"bleu": score.score}


def greedy_match(
  scores: Sequence[float], is_greedy: Sequence[bool]
) -> Mapping[str, float]:
  """Returns the percentage of targets that greedy decoding would generate.

  Args:
    scores: log-likelihoods of the targets.
    is_greedy: whether all of a target's tokens are the most probable ones.

  Returns:
    "accuracy", and "perplexity" (not a percentage): per target, not per token,
    as for LAMBADA in lm-evaluation-harness.
  """
  return {
    "accuracy": _percent(is_greedy),
    "perplexity": float(np.exp(-np.mean(scores))),
  }


def rank_accuracy(
  targets: Sequence[tuple], scores: Sequence[float]
) -> Mapping[str, float]:
  """Returns the percentage of questions whose most probable choice is correct.

  Ties go to the first choice, as in argmax. So a model that scores all choices
  equally is right whenever the first one is.

  Args:
    targets: (question, number of choices, is this one correct, number of its
      tokens, ...).
    scores: log-likelihoods of the choices.

  Returns:
    "accuracy", by the summed log-likelihood of a choice's tokens, and
    "accuracy_per_token", by their mean (Brown et al. 2020, arXiv:2005.14165,
    section 2.4). Questions with missing choices are left out.
  """
  return {
    "accuracy": _right_choices(targets, scores, lambda *target: 1),
    "accuracy_per_token": _right_choices(
      targets, scores, lambda _, num, right, tokens, *text: tokens
    ),
  }


def rank_accuracy_by_length(
  targets: Sequence[tuple[int, int, bool, int, str]], scores: Sequence[float]
) -> Mapping[str, float]:
  """Returns rank accuracies with scores normalised by the choice's length.

  Args:
    targets: as for `rank_accuracy`; the last entry is the text of the choice.
    scores: log-likelihoods of the choices.

  Returns:
    "accuracy_per_character" and, by UTF-8 bytes, "accuracy_per_byte": the
    acc_norm and acc_bytes of lm-evaluation-harness. The delimiter before a
    choice is not counted.
  """
  return {
    "accuracy_per_character": _right_choices(
      targets, scores, lambda *target: len(target[-1])
    ),
    "accuracy_per_byte": _right_choices(
      targets, scores, lambda *target: len(target[-1].encode())
    ),
  }


def _right_choices(targets, scores, size_of) -> float:
  """Returns the percentage of questions whose highest score / size is right."""
  questions = collections.defaultdict(list)
  for target, score in zip(targets, scores, strict=True):
    question, num_choices, is_right, *_ = target
    # An empty choice is never chosen.
    size = size_of(*target)
    by_size = score / size if size else -np.inf
    questions[question, num_choices].append((by_size, is_right))
  return _percent(
    max(choices, key=lambda choice: choice[0])[1]
    for (_, num_choices), choices in questions.items()
    if len(choices) == num_choices
  )


def _normalize(answer: str) -> str:
  letters = (c for c in answer.lower() if c not in string.punctuation)
  return " ".join(re.sub(r"\b(a|an|the)\b", " ", "".join(letters)).split())


def _f1(truth: str, prediction: str) -> float:
  # As in SQuAD's script, the F1 of two empty answers is 0.
  return metrics.token_f1(truth, prediction) if truth and prediction else 0.0


def _percent(values) -> float:
  values = [float(value) for value in values]
  return 100.0 * float(np.mean(values)) if values else 0.0
