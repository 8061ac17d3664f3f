"""A run's time is divided among what it went into, over all its starts."""

import itertools
import json
import shutil
import time

import pytest

from t5x_lite.data import Data
from t5x_lite.evaluation import evaluate
from t5x_lite.training import goodput
from t5x_lite.training.train import train
from tests.training import test_train

copy_task = test_train.copy_task
FRACTIONS = ["goodput"] + [
  f"{state}_fraction" for state in goodput.STATES if state != "steps"
]


@pytest.fixture
def now(monkeypatch):
  """The time of the clock, which only the test moves."""
  times = [0.0]
  monkeypatch.setattr(goodput.time, "perf_counter", lambda: times[-1])
  return times.append


def test_each_state_gets_the_time_spent_in_it(now):
  clock = goodput.Clock()
  now(3.0)
  with clock("compile"):
    now(5.0)
  clock.switch("steps")
  now(10.0)
  with clock("evaluation"):
    now(14.0)
  now(15.0)
  seconds = clock.seconds()
  assert {s: t for s, t in seconds.items() if t} == {
    "restart": 3.0, "compile": 2.0, "steps": 6.0, "evaluation": 4.0,
  }  # fmt: skip
  assert clock.run_seconds == 15.0 and clock.training_seconds == 6.0
  assert clock.fractions()["goodput"] == pytest.approx(6 / 15)
  assert clock.describe() == (
    "15 s in all: steps 40.0%, compile 13.3%, evaluation 26.7%, restart 20.0%"
  )


def test_a_description_is_of_one_moment(monkeypatch):
  # Each reading of the clock is a second later than the one before.
  monkeypatch.setattr(goodput.time, "perf_counter", itertools.count().__next__)
  assert goodput.Clock().describe() == "1 s in all: restart 100.0%"


@pytest.mark.parametrize("busy", [False, True])
def test_waiting_for_data_costs_nothing_while_the_device_computes(now, busy):
  clock = goodput.Clock()
  clock.switch("steps")
  with clock("data_wait", hidden=lambda: busy):
    now(2.0)
  assert clock.seconds()["steps" if busy else "data_wait"] == 2.0


def test_work_after_the_checkpoint_is_lost_to_a_restart(now):
  first = goodput.Clock()
  first.switch("steps")
  now(10.0)
  saved = first.seconds()
  now(40.0)
  recorded = first.run_seconds
  now(100.0)  # Killed, and started again.
  second = goodput.Clock()
  now(105.0)
  second.restore(saved)
  second.lose(recorded)
  second.switch("steps")
  now(115.0)
  seconds = second.seconds()
  assert seconds["steps"] == 10.0 + 10.0
  assert seconds["restart"] == 30.0 + 5.0
  assert second.run_seconds == 55.0


@pytest.mark.slow
def test_rates_leave_out_evaluations_and_a_kill_costs_goodput(
  tmp_path, monkeypatch, capsys
):
  slow, whole = 1.0, evaluate.evaluate

  def slow_evaluation(*args, **settings):
    time.sleep(slow)
    return whole(*args, **settings)

  monkeypatch.setattr(evaluate, "evaluate", slow_evaluation)
  held_out = Data(
    task=test_train.TASK, lengths={"inputs": 6, "targets": 6}, batch_size=8,
    split="validation", shuffle=False, num_epochs=1,
  )  # fmt: skip
  run = test_train.make_run(
    eval=(held_out,), log_every=1, eval_every=1, total_steps=4
  )
  train(run, model_dir=str(tmp_path))
  records = [
    json.loads(line)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
  ]
  steps = [r for r in records if r["kind"] == "train"]
  for record in steps:
    assert sum(record[name] for name in FRACTIONS) == pytest.approx(1)
  last = records[-1]
  assert last["kind"] == "goodput" and last["step"] == 4
  evaluating = last["evaluation_fraction"] * last["run_seconds"]
  assert evaluating >= 4 * slow
  # The time of the rates is that of training, and no more.
  training = last["run_seconds"] * (
    last["goodput"] + last["data_wait_fraction"]
  )
  rated = sum(record["step_seconds"] for record in steps)
  assert rated <= training <= last["run_seconds"] - evaluating
  assert "s in all: steps" in capsys.readouterr().err

  # Killed before the checkpoint of its last steps was written.
  shutil.rmtree(tmp_path / "checkpoints" / "4")
  train(run, model_dir=str(tmp_path))
  again = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
  assert again["kind"] == "goodput"
  assert again["run_seconds"] > last["run_seconds"] + 2 * slow
  restart, before = (
    r["restart_fraction"] * r["run_seconds"] for r in (again, last)
  )
  assert restart > before + 2 * slow  # Two evaluations among the lost work.
