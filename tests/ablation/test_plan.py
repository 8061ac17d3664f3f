"""A cell's account is that of the text it will read."""

import dataclasses

import pytest

from t5x_lite.ablation import plan
from t5x_lite.data import Data
from t5x_lite.optim import optimizers
from t5x_lite.training.run import Run
from tasks import text
from tasks.causal_lm import CausalLM
from tasks.span_corruption import SpanCorruption
from tests import tiny


@pytest.fixture(scope="module")
def make(tmp_path_factory):
  path = tmp_path_factory.mktemp("text") / "corpus.txt"
  path.write_text("\n".join(f"{i:04d}" + "abcdef" * 10 for i in range(120)))

  def run(model, objective, **lengths):
    task = text.text_task(
      files=str(path), objective=objective, vocabulary="bytes",
      documents="line",
    )  # fmt: skip
    transformer = model.transformer.clone(vocab_size=None)
    return Run(
      model=dataclasses.replace(model, transformer=transformer),
      train=Data(
        task=task, lengths=lengths, batch_size=4, document_order="study"
      ),
      optimizer=optimizers.AdamW(learning_rate=1e-3),
      total_steps=1,
    )

  return run


@pytest.fixture(scope="module")
def runs(make):
  return (
    make(tiny.palm(), CausalLM(), targets=32),
    make(tiny.t5(), SpanCorruption(), inputs=32, targets=12),
  )


def test_tokens_of_a_step_are_counted(runs):
  clm, spans = (plan.account(run) for run in runs)
  assert clm["loss_tokens_per_step"] == 4 * 32 and clm["loss_fraction"] == 1
  # EOS after each document is the task's, not the document's.
  assert clm["source_tokens_per_step"] == pytest.approx(4 * 32, rel=0.05)
  # inputs of 32 tokens: a window of 34, of which 5 are noise in 2 spans.
  assert spans["source_tokens_per_step"] == pytest.approx(4 * 34, rel=0.05)
  assert spans["loss_tokens_per_step"] == 4 * (5 + 2 + 1)
  assert spans["padding_fraction"] == pytest.approx(4 / 44, abs=0.03)


def test_arms_of_one_seed_read_the_same_documents(runs):
  first, second = map(plan.documents_sha256, runs)
  assert first == second
  other = dataclasses.replace(
    runs[0], train=dataclasses.replace(runs[0].train, seed=1)
  )
  assert plan.documents_sha256(other) != first
  apart = [
    dataclasses.replace(
      run, train=dataclasses.replace(run.train, document_order=None)
    )
    for run in runs
  ]
  assert len(set(map(plan.documents_sha256, apart))) == 2


def test_steps_are_timed_in_turns(runs, monkeypatch):
  wide, narrow = runs
  timed, speed = [], iter([1, 2, 4])

  def timing(run, steps):
    assert steps > 10
    timed.append(run)
    if run is wide:
      timing.slow = next(speed)  # The machine slows down.
    return {"step_ms_median": timing.slow * (3 if run is narrow else 2)}

  monkeypatch.setattr(plan, "_bench", timing)
  found = plan.step_ratios({"wide": wide, "narrow": narrow}, "wide")
  assert found == {"narrow": {"ratio": 1.5, "range": [1.5, 1.5]}}
  assert timed == [wide, narrow] * 3


@pytest.mark.slow
def test_a_step_is_timed_against_anothers(runs):
  first, second = (
    dataclasses.replace(run, train=dataclasses.replace(run.train, batch_size=8))
    for run in runs
  )
  found = plan.step_ratios({"causal": first, "spans": second}, "causal")
  low, high = found["spans"]["range"]
  assert 0 < low <= found["spans"]["ratio"] <= high
