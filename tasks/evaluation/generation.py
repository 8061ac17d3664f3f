"""SQuAD, CNN/DM, WMT and LAMBADA: benchmarks whose answers are free text.

  squad    "question: ... context: ..."            "an answer"
  cnn_dm   "summarize: ..."                        "highlights"
  wmt      "translate English to German: ..."      "..."
  lambada  "all words of a passage but the"        "last"

The first three in T5's formats: Raffel et al. 2020, arXiv:1910.10683,
appendix D. LAMBADA: Paperno et al. 2016, arXiv:1606.06031.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import tensorflow as tf

from tasks import text_to_text
from tasks.evaluation import metrics
from tasks.evaluation.benchmark import (
  Benchmark,
  as_text,
  field,
  per_example,
)

_LANGUAGES = {
  "cs": "Czech", "de": "German", "en": "English", "fi": "Finnish",
  "fr": "French", "ro": "Romanian", "ru": "Russian", "zh": "Chinese",
}  # fmt: skip


def squad(example: Mapping) -> dict:
  """Asks for an answer from a context; punctuation gets spaces around it."""
  answers = _pad_punctuation(field(example, "answers", "text"))
  inputs = tf.strings.join([
    "question: ", _pad_punctuation(example["question"]),
    " context: ", _pad_punctuation(example["context"]),
  ])  # fmt: skip
  return {
    "inputs": tf.strings.regex_replace(inputs, r"\s+", " "),
    "targets": answers[0],
    "answers": answers,
  }


def all_answers(text: str, *, example=None, is_target=False):
  """Returns the text, and for a target all answers that are right."""
  if is_target:
    return [as_text(answer) for answer in example["answers"]]
  return text


def last_word(example: Mapping) -> dict:
  """Parts the last word of "passage" from what comes before."""
  words = tf.strings.split(example["passage"])
  return {
    "inputs": tf.strings.reduce_join(words[:-1], separator=" "),
    "targets": words[-1],
  }


def strip(text: str, **unused_kwargs) -> str:
  """Removes the spaces around a text."""
  return text.strip()


def translation(source: str, target: str) -> Benchmark:
  """Returns the benchmark of one direction, as "en" to "de"."""
  names = _LANGUAGES[source], _LANGUAGES[target]
  template = text_to_text.TextToText(
    inputs=f"translate {names[0]} to {names[1]}: {{{source}}}",
    targets=f"{{{target}}}",
  )
  return Benchmark(
    examples=functools.partial(text_to_text.fill_templates, objective=template),
    metric_fns=(metrics.bleu,),
  )


def _pad_punctuation(text: tf.Tensor) -> tf.Tensor:
  text = tf.strings.regex_replace(text, r"([[:punct:]])", r" \1 ")
  return tf.strings.regex_replace(text, r"\s+", " ")


SQUAD = Benchmark(
  examples=per_example(squad),
  metric_fns=(metrics.squad,),
  postprocess_fn=all_answers,
)
CNN_DAILYMAIL = Benchmark(
  examples=functools.partial(
    text_to_text.fill_templates,
    objective=text_to_text.TextToText(
      inputs="summarize: {article}", targets="{highlights}"
    ),
  ),
  metric_fns=(metrics.rouge,),
)
LAMBADA = Benchmark(
  examples=per_example(last_word),
  metric_fns=(metrics.accuracy,),
  postprocess_fn=strip,
  continues=True,
)
