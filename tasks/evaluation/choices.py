"""Multiple choice by rank scoring: MMLU, ARC and HellaSwag.

  question  {"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}
  examples  inputs "2 + 2?"  targets "3"   is_correct False
            inputs "2 + 2?"  targets "4"   is_correct True

Each choice is an example, whose targets the model scores; the answer is the
choice of the greatest log-likelihood. To learn from, only the right ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import tensorflow as tf

from tasks import windows
from tasks.evaluation import metrics
from tasks.evaluation.benchmark import Benchmark, field

_LETTERS = ("A", "B", "C", "D")


def multiple_choice(
  ask: Callable[[Mapping], tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
  *,
  only_correct: bool = False,
) -> Benchmark:
  """Returns the benchmark of a function to (inputs, choices, are correct).

  Args:
    ask: of an example; inputs is a string, choices [n] strings, are correct
      [n] booleans.
    only_correct: whether wrong choices are left out, for training.
  """
  return Benchmark(
    examples=functools.partial(
      one_per_choice, ask=ask, only_correct=only_correct
    ),
    metric_fns=() if only_correct else (metrics.rank_accuracy,),
    postprocess_fn=None if only_correct else ranked,
    continues=True,
  )


def one_per_choice(
  dataset: tf.data.Dataset, *, ask: Callable, only_correct: bool
) -> tf.data.Dataset:
  """Makes an example of each choice, numbered by question."""

  def expand(number, example):
    inputs, choices, is_correct = ask(example)
    count = tf.size(choices)
    return {
      "inputs": tf.fill([count], inputs),
      "targets": choices,
      "is_correct": is_correct,
      "question": tf.fill([count], number),
      "num_choices": tf.fill([count], count),
    }

  dataset = dataset.enumerate().map(expand, num_parallel_calls=windows.AUTOTUNE)
  dataset = dataset.unbatch()
  return dataset.filter(lambda x: x["is_correct"]) if only_correct else dataset


def ranked(text: str, *, example=None, is_target=False):
  """Returns for a target what `metrics.rank_accuracy` wants to know."""
  if not is_target:
    return text
  return (
    int(example["question"]),
    int(example["num_choices"]),
    bool(example["is_correct"]),
    len(example["targets"]),
  )


def mmlu(example: Mapping):
  """Asks for the letter of one of four choices.

  Hendrycks et al. 2021, arXiv:2009.03300, without examples.
  """
  subject = tf.strings.regex_replace(example["subject"], "_", " ")
  lines = [
    tf.strings.join(["\n", letter, ". ", example["choices"][i]])
    for i, letter in enumerate(_LETTERS)
  ]
  inputs = tf.strings.join([
    "The following are multiple choice questions (with answers) about ",
    subject, ".\n\n", example["question"], *lines, "\nAnswer:",
  ])  # fmt: skip
  is_correct = tf.one_hot(example["answer"], 4, on_value=True, off_value=False)
  return inputs, tf.constant(_LETTERS), is_correct


def arc(example: Mapping):
  """Asks for the text of a choice (Clark et al. 2018, arXiv:1803.05457)."""
  inputs = tf.strings.join(["Question: ", example["question"], "\nAnswer:"])
  is_correct = field(example, "choices", "label") == example["answerKey"]
  return inputs, field(example, "choices", "text"), is_correct


def hellaswag(example: Mapping):
  """Continues what happens (Zellers et al. 2019, arXiv:1905.07830).

  The marks of WikiHow's articles, [title] and the like, are taken out.
  """
  inputs = tf.strings.join(
    [example["activity_label"], ": ", example["context"]]
  )
  endings = example["endings"]
  is_correct = tf.range(tf.size(endings)) == tf.cast(example["label"], tf.int32)
  return _without_marks(inputs), _without_marks(endings), is_correct


def _without_marks(text: tf.Tensor) -> tf.Tensor:
  text = tf.strings.regex_replace(text, r" \[title\]", ". ")
  text = tf.strings.regex_replace(text, r"\[[^\]]*\]", "")
  return tf.strings.strip(tf.strings.regex_replace(text, "  +", " "))


MMLU = multiple_choice(mmlu)
ARC = multiple_choice(arc)
HELLASWAG = multiple_choice(hellaswag)
