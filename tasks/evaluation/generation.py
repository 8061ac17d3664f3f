"""Defines benchmarks with free-text answers: SQuAD, CNN/DM, WMT, LAMBADA.

  squad    "question: ... context: ..."            "an answer"
  cnn_dm   "summarize: ..."                        "highlights"
  wmt      "translate English to German: ..."      "..."
  lambada  "all words of a passage but the"        "last"

The first three have T5's formats: Raffel et al. 2020, arXiv:1910.10683,
appendix D; answers and translations end at the end of a line. LAMBADA, Paperno
et al. 2016, arXiv:1606.06031, is evaluated as in lm-evaluation-harness 0.4.13:
nothing is generated, but each token of the last word must be the most probable.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import tensorflow as tf

from tasks import pairs, text_to_text
from tasks.evaluation import metrics, rows
from tasks.evaluation.benchmark import (
  Benchmark,
  as_text,
  field,
  per_example,
)
from tasks.metrics import until

_LANGUAGES = {
  "cs": "Czech", "de": "German", "en": "English", "fi": "Finnish",
  "fr": "French", "ro": "Romanian", "ru": "Russian", "zh": "Chinese",
}  # fmt: skip


def squad(example: Mapping) -> dict:
  """Formats a question and its context, with spaces around punctuation.

  The target of a question without an answer (SQuAD 2.0) is NO_ANSWER.
  """
  answers = _pad_punctuation(field(example, "answers", "text"))
  inputs = tf.strings.join([
    "question: ", _pad_punctuation(example["question"]),
    " context: ", _pad_punctuation(example["context"]),
  ])  # fmt: skip
  return {
    "inputs": tf.strings.regex_replace(inputs, r"\s+", " "),
    "targets": tf.concat([answers, [metrics.NO_ANSWER]], axis=0)[0],
    "answers": answers,
  }


def all_answers(text: str, *, example=None, is_target=False):
  """Returns the text, or for a target all correct answers."""
  if is_target:
    return [as_text(answer) for answer in example["answers"]]
  return text


def last_word(example: Mapping) -> dict:
  """Splits off the last word of "passage", after its last space."""
  words = tf.strings.split(example["passage"], " ")
  return {
    "inputs": tf.strings.reduce_join(words[:-1], separator=" "),
    "targets": words[-1],
  }


def read_squad(row: Mapping) -> dict:
  """Checks a row of SQuAD 1.1 or 2.0."""
  return {
    "question": rows.text(row, "question"),
    "context": rows.text(row, "context"),
    "answers/text": rows.texts(row, "answers/text", none=True),
  }


def read_passage(row: Mapping) -> dict:
  """Checks a row of LAMBADA; the Hugging Face hub names its field "text"."""
  name = "passage" if "passage" in row else "text"
  passage = rows.text(row, name).rstrip()
  if " " not in passage.strip():
    raise ValueError(
      f"field {name!r} ({passage!r}) must have at least two words"
    )
  return {"passage": passage}


def translation(source: str, target: str) -> Benchmark:
  """Returns the benchmark of one translation direction, as "en" to "de"."""
  names = _LANGUAGES[source], _LANGUAGES[target]
  template = text_to_text.TextToText(
    inputs=f"translate {names[0]} to {names[1]}: {{{source}}}",
    targets=f"{{{target}}}",
  )
  return Benchmark(
    examples=functools.partial(text_to_text.fill_templates, objective=template),
    metric_fns=(metrics.bleu,),
    postprocess_fn=until("\n"),
    read_row=rows.of_template(template),
  )


def _pad_punctuation(text: tf.Tensor) -> tf.Tensor:
  text = tf.strings.regex_replace(text, r"([[:punct:]])", r" \1 ")
  return tf.strings.regex_replace(text, r"\s+", " ")


SQUAD = Benchmark(
  examples=per_example(squad),
  metric_fns=(metrics.squad,),
  postprocess_fn=until("\n", all_answers),
  read_row=read_squad,
)
_SUMMARIZE = text_to_text.TextToText(
  inputs="summarize: {article}", targets="{highlights}"
)
CNN_DAILYMAIL = Benchmark(
  examples=functools.partial(text_to_text.fill_templates, objective=_SUMMARIZE),
  metric_fns=(metrics.rouge,),
  read_row=rows.of_template(_SUMMARIZE),
)
LAMBADA = Benchmark(
  examples=per_example(last_word),
  likelihood_fns=(metrics.greedy_match,),
  pair=pairs.Joined(end=False),
  read_row=read_passage,
)
