"""Multiple choice by rank scoring: MMLU, ARC and HellaSwag.

  question  {"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}
  examples  inputs "2 + 2?"  targets "3"   is_correct False
            inputs "2 + 2?"  targets "4"   is_correct True

Each choice is an example, whose targets the model scores; the answer is the
choice of the greatest log-likelihood. To learn from, only the right ones, which
are the very tokens that are scored. Texts, tokens and metrics are those of
lm-evaluation-harness 0.4.13.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping

import tensorflow as tf

from tasks import pairs, windows
from tasks.evaluation import metrics, rows
from tasks.evaluation.benchmark import Benchmark, field

_LETTERS = ("A", "B", "C", "D")
_MARK = re.compile(r"\[.*?\]")  # In the syntax that RE2 shares.


def multiple_choice(
  ask: Callable[[Mapping], tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
  *,
  only_correct: bool = False,
  read_row: Callable[[Mapping], dict] | None = None,
) -> Benchmark:
  """Returns the benchmark of a function to (inputs, choices, are correct).

  Args:
    ask: of an example; inputs is a string, choices [n] strings, are correct
      [n] booleans.
    only_correct: whether wrong choices are left out, for training.
    read_row: as of `Benchmark`.
  """
  return Benchmark(
    examples=functools.partial(
      one_per_choice, ask=ask, only_correct=only_correct
    ),
    metric_fns=()
    if only_correct
    else (metrics.rank_accuracy, metrics.rank_accuracy_by_length),
    postprocess_fn=None if only_correct else ranked,
    pair=pairs.Joined(end=False),
    read_row=read_row,
  )


def one_per_choice(
  dataset: tf.data.Dataset, *, ask: Callable, only_correct: bool
) -> tf.data.Dataset:
  """Makes an example of each choice, numbered by question."""

  def expand(number, example):
    inputs, choices, is_correct = ask(example)
    count = tf.size(choices)
    right = tf.reduce_sum(tf.cast(is_correct, tf.int32))
    tf.debugging.Assert(
      tf.equal(right, 1),
      ["question", number, "has", count, "choices, of which", right,
       "are right: one must be"],
    )  # fmt: skip
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
  """Returns for a target what the metrics of ranks want to know."""
  if not is_target:
    return text
  return (
    int(example["question"]),
    int(example["num_choices"]),
    bool(example["is_correct"]),
    len(example["targets"]),
    text,
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
    subject, ".\n\n", tf.strings.strip(example["question"]), *lines,
    "\nAnswer:",
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

  The marks of WikiHow's articles, [title] and the like, are taken out, as in
  the harness: the white space around them is not.
  """
  inputs = tf.strings.join(
    [example["activity_label"], ": ", example["context"]]
  )
  endings = example["endings"]
  is_correct = tf.range(tf.size(endings)) == tf.cast(example["label"], tf.int32)
  return _without_marks(inputs), _without_marks(endings), is_correct


def _without_marks(text: tf.Tensor) -> tf.Tensor:
  text = tf.strings.regex_replace(tf.strings.strip(text), r" \[title\]", ". ")
  text = tf.strings.regex_replace(text, _MARK.pattern, "")
  return tf.strings.regex_replace(text, "  ", " ")


def read_mmlu(row: Mapping) -> dict:
  """Checks a row of MMLU."""
  return {
    "question": rows.text(row, "question"),
    "subject": rows.text(row, "subject"),
    "choices": (choices := rows.texts(row, "choices", count=len(_LETTERS))),
    "answer": rows.answer(row, "answer", len(choices)),
  }


def read_arc(row: Mapping) -> dict:
  """Checks a row of ARC; labels and key may be letters or numbers."""
  choices = rows.texts(row, "choices/text")
  labels = rows.labels(row, "choices/label", count=len(choices))
  key = rows.label(row, "answerKey", labels)
  return {
    "question": rows.text(row, "question"),
    "choices/text": choices,
    "choices/label": labels,
    "answerKey": key,
  }


def read_hellaswag(row: Mapping) -> dict:
  """Checks a row of HellaSwag, as TFDS or as its authors have it.

  The second sentence begins with a capital, as in the harness, where the row
  tells which it is.
  """
  if "ctx_a" in row and "ctx_b" in row:
    begun = rows.text(row, "ctx_b", empty=True).capitalize()
    context = f"{rows.text(row, 'ctx_a')} {begun}"
  else:
    context = rows.text(row, "context")
  endings = rows.texts(row, "endings")
  if not all(_MARK.sub("", ending).strip() for ending in endings):
    raise rows.wrong("endings", endings, "a list of texts with more than marks")
  return {
    "activity_label": rows.text(row, "activity_label"),
    "context": context,
    "endings": endings,
    "label": rows.answer(row, "label", len(endings)),
  }


MMLU = multiple_choice(mmlu, read_row=read_mmlu)
ARC = multiple_choice(arc, read_row=read_arc)
HELLASWAG = multiple_choice(hellaswag, read_row=read_hellaswag)
