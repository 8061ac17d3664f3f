"""Suites are asked task by task, and scored as GLUE is."""

import re

import jax
import numpy as np
import pytest
import seqio

from t5x_lite.ablation import downstream
from t5x_lite.ablation.downstream import Suite
from tasks import sources
from tasks.evaluation.benchmark import Benchmark, per_example
from tasks.mixtures import add_mixture
from tasks.task import add_task
from tests import tiny

LENGTHS = {"inputs": 12, "targets": 4}


def _lengths(targets, predictions):
  """Measures what a model that says nothing can be good at."""
  empty = 100.0 * np.mean([not text for text in predictions])
  return {"empty": empty, "right": 100.0 * np.mean([t == "b" for t in targets])}


def _empty(targets, predictions):
  return {"empty": _lengths(targets, predictions)["empty"]}


@pytest.fixture(scope="module")
def suite():
  for name, metric in (("quiz_one", _lengths), ("quiz_two", _empty)):
    rows = {"inputs": list("xxxxxxxx"), "targets": list("bbbbaaaa")}
    add_task(
      name,
      source=sources.MemorySource(name, {"validation": rows}),
      objective=Benchmark(
        examples=per_example(lambda row: row), metric_fns=(metric,)
      ),
      vocabulary=seqio.ByteVocabulary(extra_ids=0),
    )
  add_mixture("quizzes", {"quiz_one": 1.0, "quiz_two": 1.0})
  return Suite(
    tasks=["quizzes", "quiz_one"], lengths=LENGTHS, examples=4, batch_size=2
  )


def test_a_score_is_the_mean_over_tasks_of_the_mean_of_their_metrics(suite):
  model = tiny.palm()
  # Equal logits: the likeliest token is the first, which is padding.
  params = jax.tree.map(np.zeros_like, model.init(jax.random.key(0)))
  found = downstream.measure(suite, model, params)
  one = found["metrics"]["quiz_one"]
  # Four examples were asked, the first: all of them have the answer "b".
  assert one["right"] == 100.0 and set(found["tasks"]) == {
    "quiz_one", "quiz_two",
  }  # fmt: skip
  assert found["tasks"]["quiz_one"] == (one["empty"] + 100.0) / 2
  two = found["metrics"]["quiz_two"]["empty"]
  assert found["score"] == (found["tasks"]["quiz_one"] + two) / 2
  assert found["examples"] == {"quiz_one": 4, "quiz_two": 4}


@pytest.mark.parametrize(
  ["settings", "message"],
  [
    ({"tasks": []}, "Suite.tasks is empty"),
    ({"tasks": ["a"], "examples": 40}, "examples (40) must be a multiple of"),
  ],
)
def test_mistakes_name_the_value(settings, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    Suite(lengths=LENGTHS, **settings)
