"""Signals and notices that ask a run to stop."""

import logging
import os
import signal
import time

import pytest

from t5x_lite.training import preemption
from t5x_lite.training.stop import Stop
from tests import metadata_server


@pytest.mark.parametrize("ignored", [False, True])
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(ignored):
  before = signal.getsignal(signal.SIGINT)
  try:
    if ignored:
      signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Stop() as stop:
      os.kill(os.getpid(), signal.SIGINT)
      assert stop.requested(1) == (not ignored)
  finally:
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
  ["number", "status"], [(signal.SIGINT, 130), (signal.SIGTERM, 75)]
)
def test_the_exit_status_says_whether_the_run_is_to_go_on(number, status):
  with Stop() as stop:
    stop.leave()  # Nobody has asked.
    os.kill(os.getpid(), number)
    with pytest.raises(SystemExit) as left:
      stop.leave()
  assert left.value.code == status


class Entries(dict):
  """Counts the questions to the metadata server."""

  asked = 0

  def get(self, key):
    self.asked += 1
    return super().get(key)

  def wait_until_read(self):
    # Both entries, once.
    while self.asked < 2:
      time.sleep(0.01)


@pytest.fixture
def google_cloud(monkeypatch):
  """Serves what Google Cloud says of this machine; it may be changed."""
  monkeypatch.setattr(preemption, "_POLL_SECONDS", 0.01)
  entries = Entries({"maintenance-event": "NONE", "preempted": "FALSE"})
  with metadata_server.serving(entries) as address:
    monkeypatch.setenv("GCE_METADATA_IP", address)
    yield entries


def asked(stop, seconds):
  """Returns whether the run is asked to stop within a time."""
  end = time.monotonic() + seconds
  while not stop.requested(1) and time.monotonic() < end:
    time.sleep(0.01)
  return stop.requested(1)


@pytest.mark.parametrize(
  ["key", "value"],
  [
    ("preempted", "TRUE"),
    ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE"),
  ],
)
def test_a_notice_of_google_cloud_stops_the_run(
  google_cloud, key, value, caplog
):
  caplog.set_level(logging.WARNING)
  with Stop() as stop:
    google_cloud.wait_until_read()
    assert not asked(stop, 0.1)
    google_cloud[key] = value
    assert asked(stop, 30)
    # The signal at the machine's end is not a second one, which would leave at
    # once.
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
      stop.leave()
  assert left.value.code == 75
  (line,) = caplog.messages
  assert f"{key}: {value}" in line


def test_a_live_migration_and_an_old_notice_stop_nothing(google_cloud):
  google_cloud["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
  with Stop() as stop:
    google_cloud.wait_until_read()
    assert not asked(stop, 0.1)
    google_cloud["maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"
    assert not asked(stop, 0.1)
    google_cloud["preempted"] = "TRUE"
    assert asked(stop, 30)


def test_a_server_that_does_not_answer_stops_nothing(monkeypatch):
  monkeypatch.setattr(preemption, "_POLL_SECONDS", 0.01)
  monkeypatch.setenv("GCE_METADATA_IP", "localhost:9")
  with Stop() as stop:
    assert not asked(stop, 0.1)
