"""Defines benchmarks that need no download: CPython's docs, strings, sums.

  offline_cloze         "all words of a passage but the"       "last"
  offline_continuation  "how a passage begins"                 its next words
  offline_infilling     "a <extra_id_0> b"                     "<extra_id_0> c"
  offline_copy          "copy: d a c"                          "d a c"
  offline_reverse       "reverse: d a c"                       "c a d"
  offline_sort          "sort: d a c"                          "a c d"
  offline_addition      "add: 52 + 9"                          "61"

The last word must be the result of greedy decoding. A continuation is
chosen by rank scoring among the right one and those of three other passages.
Generated text ends at an empty line, if not before. The documents are those of
corpora.py; each split has its own passages. Examples are not random: all runs
get the same ones.

The mixture "offline" has all tasks. "offline_train" has them for training,
without the wrong continuations. "offline_few_shot" has the exercises, each
after three solved ones:

  offline_sort_few_shot "sort: d b b d\\n\\n ... sort: d a c"     "a c d"
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
import string
from collections.abc import Callable, Iterator, Mapping

import tensorflow as tf

from tasks import cache, corpora, metrics, pairs, sources, text
from tasks.evaluation.benchmark import Benchmark, per_example
from tasks.evaluation.choices import multiple_choice
from tasks.evaluation.generation import LAMBADA
from tasks.mixtures import add_mixture
from tasks.task import add_task
from tasks.text_to_text import add_shots

_SIZES = {"train": 4096, "validation": 256}
_PASSAGE_WORDS = 32
_CHOICE_WORDS = 8
_SHOTS = 3
_BETWEEN = "\n\n"
_BLANKS = (5, 13, 21, 29)


class Passages(sources.LazySource):
  """Serves rows made from passages of python_docs.

  A passage is the first 32 words of a paragraph of prose.
  """

  def __init__(self, name: str, rows: Callable[[list[list[str]]], Iterator]):
    super().__init__(name)
    self._rows = rows

  def make(self) -> sources.MemorySource:
    documents = corpora.python_docs.made.columns
    return sources.MemorySource(
      self.name,
      {
        split: _columns(self._rows(_passages(documents[split]["text"], size)))
        for split, size in _SIZES.items()
      },
    )


class Sums(sources.LazySource):
  """Serves exercises drawn with a fixed seed."""

  def __init__(self, name: str, draw: Callable[[random.Random], tuple]):
    super().__init__(name)
    self._draw = draw

  def make(self) -> sources.MemorySource:
    generator = random.Random(self.name)
    drawn = {}  # A dict removes duplicates and keeps the order.
    while len(drawn) < sum(_SIZES.values()):
      inputs, targets = self._draw(generator)
      drawn[inputs] = targets
    rows = ({"inputs": i, "targets": t} for i, t in drawn.items())
    return sources.MemorySource(
      self.name,
      {
        split: _columns(itertools.islice(rows, size))
        for split, size in _SIZES.items()
      },
    )


def cloze(passages: list[list[str]]) -> Iterator[dict]:
  """Cuts each passage after its last word of four letters or more."""
  for words in passages:
    long = [
      i for i, word in enumerate(words) if re.fullmatch("[a-z]{4,}", word)
    ]
    if long and long[-1] >= 8:
      yield {"passage": " ".join(words[: long[-1] + 1])}


def continuation(passages: list[list[str]]) -> Iterator[dict]:
  """Offers the end of each passage and those of the next three as choices."""
  ends = [" ".join(words[-_CHOICE_WORDS:]) for words in passages]
  for i, words in enumerate(passages):
    choices = [ends[(i + k) % len(ends)] for k in range(4)]
    answer = i % 4
    choices[0], choices[answer] = choices[answer], choices[0]
    yield {
      "passage": " ".join(words[:-_CHOICE_WORDS]),
      "choices": choices,
      "answer": answer,
    }


def infilling(passages: list[list[str]]) -> Iterator[dict]:
  """Replaces four words of each passage by sentinels."""
  for words in passages:
    blanked, filled = list(words), []
    for number, place in enumerate(_BLANKS):
      blanked[place] = f"<extra_id_{number}>"
      filled += [blanked[place], words[place]]
    yield {"inputs": " ".join(blanked), "targets": " ".join(filled)}


def letters(name: str, change: Callable[[list[str]], list[str]]) -> Callable:
  """Returns a function that draws 3 to 8 letters and changes them."""

  def draw(generator):
    drawn = generator.choices(string.ascii_lowercase, k=generator.randint(3, 8))
    return f"{name}: {' '.join(drawn)}", " ".join(change(drawn))

  return draw


def addition(generator: random.Random) -> tuple[str, str]:
  """Draws two numbers of one to three digits and adds them."""
  a, b = (generator.randrange(10 ** generator.randint(1, 3)) for _ in "ab")
  return f"add: {a} + {b}", str(a + b)


def _ask(example: Mapping):
  is_correct = tf.range(4) == example["answer"]
  return example["passage"], example["choices"], is_correct


def _passages(documents: list[str], size: int) -> list[list[str]]:
  """Returns up to `size` passages, in an order that mixes the documents."""
  found = {
    " ".join(words[:_PASSAGE_WORDS])
    for document in documents
    for paragraph in document.split("\n\n")
    if len(words := paragraph.split()) >= _PASSAGE_WORDS
    and not re.search(r"\S   |::=|>>>|->", paragraph)
  }
  chosen = sorted(found, key=cache.unit_interval)[:size]
  return [passage.split() for passage in chosen]


def _columns(rows: Iterator[Mapping]) -> dict[str, list]:
  rows = list(rows)
  return {key: [row[key] for row in rows] for key in rows[0]}


def _as_is(example: Mapping) -> Mapping:
  return example


def _after_solved(dataset: tf.data.Dataset) -> tf.data.Dataset:
  return add_shots(dataset, shots=_SHOTS, between=_BETWEEN)


_EXACT = Benchmark(
  examples=per_example(_as_is),
  metric_fns=(metrics.sequence_accuracy,),
  postprocess_fn=metrics.until(_BETWEEN),
)
_FEW_SHOT = dataclasses.replace(
  _EXACT, examples=_after_solved, pair=pairs.Joined()
)
_EXERCISES = {
  f"offline_{name}": Sums(f"offline_{name}", draw)
  for name, draw in {
    "copy": letters("copy", list),
    "reverse": letters("reverse", lambda drawn: drawn[::-1]),
    "sort": letters("sort", sorted),
    "addition": addition,
  }.items()
}
_TASKS: Mapping[str, tuple[sources.LazySource, Benchmark]] = {
  "offline_cloze": (Passages("offline_cloze", cloze), LAMBADA),
  "offline_continuation": (
    Passages("offline_continuation", continuation),
    multiple_choice(_ask),
  ),
  "offline_infilling": (
    Passages("offline_infilling", infilling),
    Benchmark(
      examples=per_example(_as_is),
      metric_fns=(metrics.infilling,),
      postprocess_fn=metrics.spans,
    ),
  ),
  **{name: (source, _EXACT) for name, source in _EXERCISES.items()},
}
_RIGHT = "offline_right_continuation"
_MORE: Mapping[str, tuple[sources.LazySource, Benchmark]] = {
  _RIGHT: (
    _TASKS["offline_continuation"][0],
    multiple_choice(_ask, only_correct=True),
  ),
  **{
    f"{name}_few_shot": (source, _FEW_SHOT)
    for name, source in _EXERCISES.items()
  },
}


def register() -> None:
  """Adds the tasks, with the vocabulary of python_docs, and the mixtures."""
  for name, (source, benchmark) in {**_TASKS, **_MORE}.items():
    add_task(
      name,
      source=source,
      objective=benchmark,
      vocabulary=text.python_vocabulary(),
    )
  learnt = [
    _RIGHT if name == "offline_continuation" else name for name in _TASKS
  ]
  few_shot = [f"{name}_few_shot" for name in _EXERCISES]
  for name, tasks in (
    ("offline", _TASKS),
    ("offline_train", learnt),
    ("offline_few_shot", few_shot),
  ):
    add_mixture(name, dict.fromkeys(tasks, 1.0))
