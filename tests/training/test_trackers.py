"""Trackers get every record, on this machine, and go on with the same run."""

import json
import math
import sqlite3

import pytest
import wandb

from launch import config
from t5x_lite.training import run as run_lib
from t5x_lite.training import trackers
from t5x_lite.training.train import train
from tests.training import test_train

copy_task = test_train.copy_task


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
  """Neither a user's settings nor their home."""
  for name in ("WANDB_MODE", "WANDB_DIR", "TRACKIO_SPACE_ID"):
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)
  monkeypatch.setenv("WANDB_SILENT", "true")
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))


def write_twice(tracker, model_dir):
  """Writes records in two starts, the second from an earlier step on."""
  model_dir.mkdir()
  configuration = {"configuration": {"seed": 7}}
  (model_dir / "run.json").write_text(json.dumps(configuration))
  for steps in ((1, 2), (2, 3)):
    sink = tracker.open(str(model_dir))
    for step in steps:
      sink.write(step, "train", {"loss": 1 / step, "batch_digest": "1a"})
    sink.write(steps[-1], "eval", {"task/loss": math.nan})
    sink.close()


def test_wandb_keeps_both_starts_of_a_run_under_one_id(tmp_path):
  run = tmp_path / "first"
  write_twice(trackers.Wandb(project="mine"), run)
  wandb.teardown()  # Its process writes on after a run is finished.
  run_id = json.loads((run / "trackers.json").read_text())["wandb"]
  folders = list((run / "wandb").glob("offline-run-*"))
  assert len(folders) == 2
  for folder in folders:
    (file,) = folder.glob("*.wandb")
    assert file.name == f"run-{run_id}.wandb"
    content = file.read_bytes()
    assert b"train/loss" in content and b"eval/task/loss" in content
    assert b"mine" in content and b"seed" in content


def test_trackio_keeps_both_starts_as_one_run(tmp_path):
  run = tmp_path / "first"
  write_twice(trackers.Trackio(project="mine"), run)
  name = json.loads((run / "trackers.json").read_text())["trackio"]
  with sqlite3.connect(tmp_path / "trackio" / "mine.db") as database:
    rows = database.execute(
      "select run_id, run_name, step, metrics from metrics order by id"
    ).fetchall()
    ((settings,),) = database.execute("select config from configs")
  assert len({row[0] for row in rows}) == 1
  assert {row[1] for row in rows} == {name}
  losses = [(r[2], json.loads(r[3]).get("train/loss")) for r in rows]
  assert [loss for loss in losses if loss[1] is not None] == [
    (1, 1.0), (2, 0.5), (2, 0.5), (3, 1 / 3),
  ]  # fmt: skip
  assert json.loads(settings)["seed"] == 7


class Noting(trackers.Tracker):
  """Keeps the records in a list."""

  package = "json"
  records = []

  def open(self, model_dir):
    self.records.append(("open", model_dir))
    return self

  def write(self, step, kind, values):
    self.records.append((step, kind, dict(values)))

  def close(self):
    self.records.append(("close",))


def test_a_tracker_gets_what_metrics_jsonl_gets(tmp_path):
  run = test_train.make_run(
    trackers=[Noting()], total_steps=2, log_every=1, checkpoint_every=None
  )
  train(run, model_dir=str(tmp_path))
  first, *given, last = Noting.records
  assert first == ("open", str(tmp_path)) and last == ("close",)
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
    {"step": step, "kind": kind, **values} for step, kind, values in given
  ]


def test_a_tracker_that_is_not_installed_is_refused_before_anything(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(trackers.Wandb, "package", "no_such_package")
  run = test_train.make_run(trackers=[trackers.Wandb()])
  with pytest.raises(ValueError, match="pip install no_such_package"):
    train(run, model_dir=str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_gin_file_chooses_the_tracker(name):
  config.load(
    ["runs/quickstart.gin", f"runs/track_{name}.gin"], ['PROJECT="mine"']
  )
  (tracker,) = config.bound(run_lib.Run)["trackers"]
  assert (tracker.package, tracker.project) == (name, "mine")
