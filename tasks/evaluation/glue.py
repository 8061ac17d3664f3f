"""Defines GLUE and SuperGLUE as text-to-text tasks, in T5's formats.

  cola   "cola sentence: ..."                         "acceptable"
  stsb   "stsb sentence1: ... sentence2: ..."         "3.8"
  wsc    "wsc: Tom asked Bob if *he* could come ."    "Bob"

Raffel et al. 2020, arXiv:1910.10683, appendix D; Wang et al. 2018,
arXiv:1804.07461, and 2019, arXiv:1905.00537. GLUE's WNLI is left out, as in T5.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import tensorflow as tf

from tasks import windows
from tasks.evaluation import metrics, rows
from tasks.evaluation.benchmark import (
  Benchmark,
  as_text,
  classification,
  field,
  label_number,
  per_example,
)
from tasks.metrics import until

_FALSE_TRUE = ("False", "True")
_ENTAILMENT = ("entailment", "not_entailment")
_MNLI = ("entailment", "neutral", "contradiction")
_F1_AND_ACCURACY = (metrics.f1, metrics.accuracy)
# Removed from WSC's noun phrases before they are compared.
_DETERMINERS = frozenset({
  "a", "an", "few", "her", "his", "each", "every", "many", "much", "my", "our",
  "some", "that", "the", "their", "these", "this", "those", "which", "whose",
  "your",
})  # fmt: skip


def stsb(example: Mapping) -> dict:
  """Formats a pair; the target is its similarity, 0 to 5, rounded to 0.2."""
  similarity = tf.round(example["label"] * 5) / 5
  return {
    "inputs": tf.strings.join([
      "stsb sentence1: ", example["sentence1"],
      " sentence2: ", example["sentence2"],
    ]),
    "targets": tf.strings.as_string(similarity, precision=1),
  }  # fmt: skip


def number(text: str, **unused_kwargs) -> float:
  """Parses a number; any other text is -1."""
  try:
    return float(text)
  except ValueError:
    return -1.0


def multirc(example: Mapping) -> dict:
  """Formats a question and one answer, without markup; True if it is right."""
  inputs = tf.strings.join([
    "multirc question: ", example["question"], " answer: ", example["answer"],
    " paragraph: ", example["paragraph"],
  ])  # fmt: skip
  inputs = tf.strings.regex_replace(inputs, "<br>", " ")
  return {
    "inputs": tf.strings.regex_replace(inputs, "</?b>", ""),
    "targets": _truth(example["label"]),
    "question": field(example, "idx", "question"),
  }


def multirc_answer(text: str, *, example=None, is_target=False):
  """Returns the label, or for a target (question, label)."""
  label = label_number(text, labels=_FALSE_TRUE)
  return (int(example["question"]), label) if is_target else label


def record(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Makes one example per answer of a query, or one if there is no answer."""

  def fill(example):
    answers = example["answers"]
    count = tf.maximum(tf.size(answers), 1)
    passage = tf.strings.regex_replace(
      example["passage"], r"(\.|\?|\!|\"|\')\n@highlight\n", r"\1 "
    )
    passage = tf.strings.regex_replace(passage, r"\n@highlight\n", ". ")
    entities = tf.strings.reduce_join(example["entities"], separator=", ")
    inputs = tf.strings.join([
      "record query: ", example["query"], " entities: ", entities,
      " passage: ", passage,
    ])  # fmt: skip
    query = [field(example, "idx", key) for key in ("passage", "query")]
    return {
      "inputs": tf.fill([count], inputs),
      "targets": tf.concat([answers, ["<unk>"]], axis=0)[:count],
      "answers": tf.tile(answers[tf.newaxis], [count, 1]),
      "query": tf.tile(tf.stack(query)[tf.newaxis], [count, 1]),
    }

  return dataset.map(fill, num_parallel_calls=windows.AUTOTUNE).unbatch()


def record_answer(text: str, *, example=None, is_target=False):
  """Returns the text, or for a target (query, all answers)."""
  if not is_target:
    return text
  query = tuple(int(i) for i in example["query"])
  return query, [as_text(answer) for answer in example["answers"]]


def wsc(example: Mapping) -> dict:
  """Marks the pronoun in a text; the target is the noun that it refers to.

  Words are separated by single spaces, as in the data, and there are words on
  both sides of the pronoun.
  """
  words = tf.strings.split(example["text"], " ")
  index = example["span2_index"]
  before, after = words[:index], words[index + 1 :]
  pronoun = tf.strings.join(["*", example["span2_text"], "*"])
  marked = tf.concat([["wsc:"], before, [pronoun], after], axis=0)
  return {
    "inputs": tf.strings.reduce_join(marked, separator=" "),
    "targets": tf.ensure_shape(example["span1_text"], []),
    "label": example["label"],
  }


def right_wsc(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Formats only the examples with the correct noun, for training."""
  return per_example(wsc)(dataset.filter(lambda row: row["label"] == 1))


def wsc_referent(text: str, *, example=None, is_target=False) -> int:
  """Returns 1 if a text names the noun in question, else 0; -1 for no text.

  The words of one must include the words of the other ("bunny", "the fluffy
  bunny"), and both or neither must be possessive ("Bob", not "Bob's hat").
  """
  if is_target:
    return int(example["label"])
  said, noun = _words(text), _words(as_text(example["targets_pretokenized"]))
  if not said:
    return -1
  if ("'" in " ".join(said)) != ("'" in " ".join(noun)):
    return 0
  return int(set(said) <= set(noun) or set(noun) <= set(said))


def _truth(label: tf.Tensor) -> tf.Tensor:
  # -1, the label of unlabelled examples, becomes "<unk>".
  return tf.constant([*_FALSE_TRUE, "<unk>"])[tf.where(label < 0, 2, label)]


def _words(text: str) -> list[str]:
  words = text.strip().lower().split(" ")
  return [word for word in words if word and word not in _DETERMINERS]


_TRUTH = functools.partial(rows.class_number, names=_FALSE_TRUE)
_ANY_TEXTS = functools.partial(rows.texts, none=True)
_WSC_FIELDS = {
  "text": rows.text, "span1_text": rows.text, "span2_text": rows.text,
  "label": _TRUTH,
}  # fmt: skip


def _read_wsc(row: Mapping) -> dict:
  read = rows.reader(_WSC_FIELDS)(row)
  count = len(read["text"].split(" "))
  return read | {"span2_index": rows.index(row, "span2_index", count)}


_MNLI_BENCHMARK = classification(
  "mnli hypothesis: {hypothesis} premise: {premise}", _MNLI
)
_RTE_OF_PREMISES = classification(
  "rte hypothesis: {hypothesis} premise: {premise}", _ENTAILMENT
)

GLUE: Mapping[str, Benchmark] = {
  "cola": classification(
    "cola sentence: {sentence}",
    ("unacceptable", "acceptable"),
    (metrics.matthews_correlation,),
  ),
  "sst2": classification("sst2 sentence: {sentence}", ("negative", "positive")),
  "mrpc": classification(
    "mrpc sentence1: {sentence1} sentence2: {sentence2}",
    ("not_equivalent", "equivalent"),
    _F1_AND_ACCURACY,
  ),
  "qqp": classification(
    "qqp question1: {question1} question2: {question2}",
    ("not_duplicate", "duplicate"),
    _F1_AND_ACCURACY,
  ),
  "stsb": Benchmark(
    examples=per_example(stsb),
    metric_fns=(metrics.correlations,),
    postprocess_fn=until("\n", number),
    read_row=rows.reader(
      {
        "sentence1": rows.text,
        "sentence2": rows.text,
        "label": rows.number,
      }
    ),
  ),
  "mnli": _MNLI_BENCHMARK,
  "mnli_mismatched": _MNLI_BENCHMARK,
  "qnli": classification(
    "qnli question: {question} sentence: {sentence}", _ENTAILMENT
  ),
  "rte": classification(
    "rte sentence1: {sentence1} sentence2: {sentence2}", _ENTAILMENT
  ),
}

SUPER_GLUE: Mapping[str, Benchmark] = {
  "boolq": classification(
    "boolq passage: {passage} question: {question}", _FALSE_TRUE
  ),
  "cb": classification(
    "cb hypothesis: {hypothesis} premise: {premise}",
    ("entailment", "contradiction", "neutral"),
    (metrics.mean_3class_f1, metrics.accuracy),
  ),
  "copa": classification(
    "copa choice1: {choice1} choice2: {choice2} premise: {premise} "
    "question: {question}",
    ("choice1", "choice2"),
  ),
  "multirc": Benchmark(
    examples=per_example(multirc),
    metric_fns=(metrics.multirc,),
    postprocess_fn=until("\n", multirc_answer),
    read_row=rows.reader(
      {
        "question": rows.text,
        "answer": rows.text,
        "paragraph": rows.text,
        "label": _TRUTH,
        "idx/question": rows.integer,
      }
    ),
  ),
  "record": Benchmark(
    examples=record,
    metric_fns=(metrics.record,),
    postprocess_fn=until("\n", record_answer),
    read_row=rows.reader(
      {
        "passage": rows.text,
        "query": rows.text,
        "entities": _ANY_TEXTS,
        "answers": _ANY_TEXTS,
        "idx/passage": rows.integer,
        "idx/query": rows.integer,
      }
    ),
  ),
  "rte": _RTE_OF_PREMISES,
  "wic": classification(
    "wic sentence1: {sentence1} sentence2: {sentence2} word: {word}",
    _FALSE_TRUE,
  ),
  "wsc": Benchmark(
    examples=per_example(wsc),
    metric_fns=(metrics.accuracy,),
    postprocess_fn=until("\n", wsc_referent),
    read_row=_read_wsc,
  ),
  "wsc_train": Benchmark(examples=right_wsc, read_row=_read_wsc),
}
