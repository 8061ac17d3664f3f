"""Defines multiple choice benchmarks by rank scoring: MMLU, ARC, HellaSwag.

  question  {"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}
  examples  inputs "2 + 2?"  targets "3"   is_correct False
            inputs "2 + 2?"  targets "4"   is_correct True

Each choice is an example whose targets the model scores; the answer is the
choice with the highest log-likelihood. Training uses the correct choices only,
with the same tokens as in scoring. Texts, tokens and metrics are those of
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
_MARK = re.compile(r"\[.*?\]")  # Also valid RE2 syntax.


def multiple_choice(
  ask: Callable[[Mapping], tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
  *,
  only_correct: bool = False,
  read_row: Callable[[Mapping], dict] | None = None,
) -> Benchmark:
  """Returns the benchmark of a function that formats questions.

  Args:
    ask: maps an example to (inputs, choices, is_correct): a string, [n] strings
      and [n] booleans.
    only_correct: whether to leave out wrong choices, for training.
    read_row: as in `Benchmark`.
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
  """Makes one example per choice, with the number of its question."""

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
  """Returns the text, or for a target the tuple that rank metrics need."""
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
  """Formats a question whose answer is the letter of one of four choices.

  Zero-shot; Hendrycks et al. 2021, arXiv:2009.03300.
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
  """Formats a question whose answer is the text of a choice.

  Clark et al. 2018, arXiv:1803.05457.
  """
  inputs = tf.strings.join(["Question: ", example["question"], "\nAnswer:"])
  is_correct = field(example, "choices", "label") == example["answerKey"]
  return inputs, field(example, "choices", "text"), is_correct


def hellaswag(example: Mapping):
  """Formats a context and its possible endings.

  Zellers et al. 2019, arXiv:1905.07830. Marks of WikiHow's articles, such as
  [title], are removed, but not the white space around them, as in the harness.
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
  """Checks a row of HellaSwag, in the format of TFDS or of its authors.

  If the row has the second sentence as a field, it is capitalised, as in the
  harness.
  """
  if "ctx_a" in row and "ctx_b" in row:
    second = rows.text(row, "ctx_b", empty=True).capitalize()
    context = f"{rows.text(row, 'ctx_a')} {second}"
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
