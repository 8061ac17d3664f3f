"""Studies expand to cells, and share a budget out."""

import dataclasses
import re

import pytest

from t5x_lite.ablation import plan
from t5x_lite.ablation.study import Budget, Stage, Study

GRID = {
  "architecture": {
    "encdec": ["models/a.gin"], "causal": ["models/b.gin", "X=1"],
  },
  "objective": {"spans": ["s.gin"], "clm": ["c.gin", "T=2"]},
}  # fmt: skip


def study(**settings):
  settings = {"grid": GRID, "budget": Budget(amount=10), **settings}
  return Study(question="?", **settings)


def test_cells_are_the_product_and_later_settings_win():
  cells = {c.name: c for c in study(common=["all.gin", "T=1"]).cells()}
  assert list(cells) == [
    "encdec-spans", "encdec-clm", "causal-spans", "causal-clm",
  ]  # fmt: skip
  last = cells["causal-clm"]
  assert last.files == ["all.gin", "models/b.gin", "c.gin"]
  assert last.bindings == ["T=1", "X=1", "T=2"]
  assert last.choices == {"architecture": "causal", "objective": "clm"}


def test_a_skip_leaves_out_what_it_names_with_the_reason():
  skip = [({"architecture": "encdec", "objective": "clm"}, "no inputs")]
  reasons = {c.name: c.skipped for c in study(skip=skip).cells()}
  assert reasons["encdec-clm"] == "no inputs"
  assert [n for n, reason in reasons.items() if reason] == ["encdec-clm"]


def stage(*settings, **other):
  return Stage(budget=Budget(amount=5, unit="steps"), settings=settings,
               **other)  # fmt: skip


def test_stages_add_their_settings_to_those_of_what_they_go_on_from():
  stages = {
    "adapted": stage("T=9", only={"architecture": "causal"}),
    "tuned": stage("quiz.gin"),
    "adapted_tuned": stage("quiz.gin", after="adapted"),
  }
  of = study(stages=stages)
  runs = {cell.name: of.runs(cell) for cell in of.cells()}
  assert list(runs["encdec-clm"]) == ["", "tuned"]
  runs = runs["causal-clm"]
  assert list(runs) == ["", "adapted", "tuned", "adapted_tuned"]
  assert runs["tuned"].bindings == ["X=1", "T=2"]
  assert runs["adapted_tuned"].bindings == ["X=1", "T=2", "T=9"]
  assert runs["adapted_tuned"].files[-1] == "quiz.gin"


@pytest.mark.parametrize(
  ["settings", "message"],
  [
    ({"stages": {"a/b": stage()}}, "'a/b', which names a directory"),
    (
      {"stages": {"b": stage(after="c"), "c": stage()}},
      "stage b has after='c', which is not an earlier stage: those are none",
    ),
    (
      {"stages": {"b": stage(only={"depth": "2"})}},
      "stage b names depth=2, which is not in Study.grid",
    ),
    ({"grid": {"a": {}}}, "has an empty axis"),
    ({"grid": {"a": {"b/c": []}}}, "option 'b/c' of 'a' names a directory"),
    ({"seeds": (1, 1)}, "seeds ((1, 1)) must be one or more"),
    (
      {"baseline": "nonesuch"},
      "no cell 'nonesuch'; its cells are encdec-spans",
    ),
    ({"skip": [({"depth": "2"}, "")]}, "depth=2, which is not in Study.grid"),
    (
      {"contrasts": {"one": [("quiz", "causal-clm")]}},
      "Study.contrasts 'one' has 1 sides",
    ),
    (
      {"contrasts": {"x": [("quiz", "b"), ("quiz", "b")]}},
      "Study.contrasts 'x' compares ('quiz', 'b') with itself",
    ),
    (
      {"contrasts": {"x": [("quiz after a", "causal-clm"), ("quiz", "b")]}},
      "Study.contrasts 'x' names stage 'a', which is not in Study.stages",
    ),
    (
      {"contrasts": {"x": [("quiz", "causal-clm"), ("quiz", "b")]}},
      "no cell 'b'; its cells are",
    ),
    ({"size_axis": "depth"}, "must be one of architecture, objective"),
  ],
)
def test_mistakes_name_the_value(settings, message):
  with pytest.raises(ValueError, match=re.escape(message.replace(";", ":"))):
    study(**settings)


ACCOUNT = {
  "parameters": 100,
  "flops_per_step": 8e6,
  "flops_per_step_without_head": 6e6,
  "source_tokens_per_step": 500.0,
  "loss_tokens_per_step": 100.0,
  "tokens_per_step": 600.0,
  "step_seconds": 0.25,
}


@pytest.mark.parametrize(
  ["budget", "steps"],
  [
    (Budget(amount=8e8), 100),
    (Budget(amount=6e8, embeddings=False), 100),
    (Budget(amount=1e4, unit="source_tokens"), 20),
    (Budget(amount=1e4, unit="loss_tokens"), 100),
    (Budget(amount=10, unit="seconds"), 40),
    (Budget(amount=7, unit="steps"), 7),
  ],
)
def test_a_budget_becomes_steps(budget, steps):
  assert plan.steps(ACCOUNT, budget) == steps


def test_totals_are_in_the_units_of_budgets():
  totals = plan.totals(ACCOUNT, 10)
  assert totals == {
    "steps": 10, "flops": 8e7, "source_tokens": 5e3, "loss_tokens": 1e3,
    "tokens": 6e3, "seconds": 2.5,
  }  # fmt: skip


def test_a_budget_of_no_step_is_refused():
  with pytest.raises(ValueError, match="is less than one step"):
    plan.steps(ACCOUNT, Budget(amount=1))
  with pytest.raises(ValueError, match="must be one of flops, source_tokens"):
    Budget(amount=1, unit="time")
  with pytest.raises(ValueError, match="must be above 0"):
    Budget(amount=0)


def test_sizes_may_be_held_equal():
  budget = Budget(amount=1, parameters_within=0.05)
  accounts = {"a": ACCOUNT, "b": {**ACCOUNT, "parameters": 104}}
  plan.check_parameters(accounts, budget)
  accounts["c"] = {**ACCOUNT, "parameters": 106}
  with pytest.raises(ValueError, match="c has 106 parameters and a has 100"):
    plan.check_parameters(accounts, budget)
  plan.check_parameters(
    accounts, dataclasses.replace(budget, parameters_within=None)
  )
