"""A run whose data does not come ends, and says where it waits."""

import os
import threading

import pytest

from t5x_lite.data.batch_iterator import BatchIterator
from t5x_lite.training import watchdog
from t5x_lite.training.train import train
from tests.training.test_train import copy_task, make_run  # noqa: F401


def test_data_that_does_not_come_ends_the_run_with_all_stacks(
  tmp_path, monkeypatch, capfd
):
  statuses, ended = [], threading.Event()

  def end(status):
    statuses.append(status)
    ended.set()

  read, batches = BatchIterator.__next__, []

  def read_or_wait_for_ever(self):
    batches.append(read(self))
    if len(batches) == 3:
      assert ended.wait(60)
      raise ValueError("the process has ended")
    return batches[-1]

  monkeypatch.setattr(os, "_exit", end)
  monkeypatch.setattr(BatchIterator, "__next__", read_or_wait_for_ever)
  run = make_run(batch_timeout_seconds=2.0, checkpoint_every=1)
  with pytest.raises(ValueError, match="the process has ended"):
    train(run, model_dir=str(tmp_path))
  assert statuses[0] == watchdog.EXIT_STATUS == 74
  said = capfd.readouterr().err
  assert "in read_or_wait_for_ever" in said
  assert "no batch in 2 s (Run.batch_timeout_seconds)" in said
