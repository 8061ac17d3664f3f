"""A run's files are the same in an object store as in a folder."""

import dataclasses
import json

import pytest
from etils import epath

from launch import rundir
from t5x_lite.files import lease, lock
from t5x_lite.optim.optimizers import AdamW
from t5x_lite.training import metrics_log, samples, stopped
from t5x_lite.training.train import train
from tests import stores
from tests.training import test_train
from tests.training.test_stopped import Leap

copy_task = test_train.copy_task
remote = stores.remote


def test_a_run_is_started_trained_and_stopped_in_a_store(remote, monkeypatch):
  monkeypatch.setattr(lease, "SETTLE", 0.0)
  # The task has numbers, not texts.
  monkeypatch.setattr(samples.Samples, "_texts", lambda *args: {})
  monkeypatch.setattr(samples.Samples, "_is_shown", lambda *args: True)
  monkeypatch.setattr(samples.infer, "run", lambda *args, **options: [{"a": 1}])
  run = test_train.make_run(
    optimizer=AdamW(learning_rate=Leap(1e15)), total_steps=20, log_every=2,
    sample_every=2, checkpoint_every=None, max_skipped_steps=2,
  )  # fmt: skip
  model_dir = epath.Path("ram://training/runs/a")
  directory = rundir.RunDirectory(model_dir)
  assert directory.check(run) == []
  with directory.locked():
    directory.start(run, ["t5x_lite", "train"])
    with pytest.raises(ValueError, match=r"--replay=7 repeats it"):
      train(run, model_dir=str(model_dir))
    directory.undo()
  lines = (model_dir / metrics_log.FILE).read_text().splitlines()
  found = [json.loads(line)["step"] for line in lines]
  assert found[:3] == [2, 4, 6]
  record, batch = stopped.read(str(model_dir), 7)
  assert stopped.row_ids(batch) == [row["id"] for row in record["rows"]]
  names = {path.name for path in model_dir.iterdir()}
  assert {
    rundir.CONFIG, rundir.RECORD, "text.json", "vocabulary.json", "samples",
  } <= names  # fmt: skip
  assert lock.NAME not in names
  assert any(name.startswith("events") for name in names)
  assert not any("partial" in name or "probe" in name for name in names)
  other = dataclasses.replace(run, seed=5)
  with pytest.raises(ValueError, match=r"seed is 0 there, 5 here"):
    rundir.RunDirectory(model_dir).check(other)


def test_a_run_that_does_not_begin_leaves_no_files_in_a_store(
  remote, monkeypatch
):
  monkeypatch.setattr(lease, "SETTLE", 0.0)
  model_dir = epath.Path("ram://training/runs/b")
  directory = rundir.RunDirectory(model_dir)
  run = test_train.make_run()
  directory.check(run)
  with directory.locked():
    directory.start(run, ["t5x_lite", "train"])
    with pytest.raises(lock.Held), lock.directory(model_dir):
      pass
    directory.undo()
  assert not list(model_dir.iterdir())
