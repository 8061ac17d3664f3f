"""Locks of a file: flock where there is one, else a lease."""

import concurrent.futures
import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from t5x_lite.files import lease, lock


@pytest.fixture(params=["flock", "lease"])
def kind(request, monkeypatch):
  """Each kind of lock; leases of a tenth of a second stand for those of 10."""
  if request.param == "lease":

    def unsupported(*args):
      raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
  monkeypatch.setattr(lease, "EXPIRES", 1.5)
  monkeypatch.setattr(lease, "BEAT", 0.1)
  monkeypatch.setattr(lease, "SETTLE", 0.05)
  return request.param


@pytest.fixture
def path(tmp_path):
  return epath.Path(tmp_path) / lock.NAME


@pytest.fixture
def held(path):
  """Another thread, which holds the lock until the event that this returns."""
  held, end = threading.Event(), threading.Event()

  def hold():
    with lock.exclusive(path):
      held.set()
      end.wait()

  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    holder = pool.submit(hold)
    assert held.wait(10)
    yield end, holder
    end.set()


def test_a_second_holder_is_refused_and_told_of_the_first(kind, path, held):
  end, holder = held
  with pytest.raises(lock.Held, match=rf"process {os.getpid()} on \S+"):
    with lock.exclusive(path):
      pass
  end.set()
  holder.result()
  assert not path.exists()
  with lock.exclusive(path):
    pass
  assert not path.exists()


def test_one_that_waits_has_it_next(kind, path, held):
  end, _ = held
  begun = time.monotonic()
  threading.Timer(0.3, end.set).start()
  with lock.exclusive(path, wait=True):
    assert time.monotonic() - begun > 0.25


def test_a_killed_holder_is_followed_at_once(path):
  code = """
import fcntl, sys
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
  with subprocess.Popen(
    [sys.executable, "-c", code, path],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
  ) as holder:  # fmt: skip
    holder.stdout.readline()
    with pytest.raises(lock.Held), lock.exclusive(path):
      pass
    holder.kill()
  with lock.exclusive(path):
    pass


@pytest.mark.parametrize("kind", ["lease"], indirect=True)
def test_a_killed_holder_is_followed_once_its_lease_is_over(kind, path):
  lease._renew(path, {"id": "another", "holder": "process 2 on there"})
  begun = time.monotonic()
  with lock.exclusive(path):
    assert 0.5 < time.monotonic() - begun < 10


def test_four_never_hold_it_together(kind, path, tmp_path, monkeypatch):
  monkeypatch.setattr(lease, "SETTLE", 0.4)  # A machine may be busy.

  def work(number):
    for _ in range(10 if kind == "flock" else 1):
      with lock.exclusive(path, wait=True):
        (tmp_path / "inside").mkdir()  # Fails if it is there.
        time.sleep(0.01)
        (tmp_path / "inside").rmdir()

  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    list(pool.map(work, range(4)))


@pytest.mark.parametrize("by", ["taken over", "removed"])
def test_a_lost_lease_ends_its_holder(path, by, monkeypatch, capfd):
  monkeypatch.setattr(lease, "BEAT", 0.1)
  monkeypatch.setattr(lease, "SETTLE", 0.0)
  monkeypatch.setattr(os, "_exit", lambda status: ended.append(status))
  ended = []
  with lease.held(path, "process 1 on here", wait=False):
    if by == "removed":
      path.unlink()
    else:
      lease._renew(path, {"id": "another", "holder": "process 2 on there"})
    time.sleep(0.5)
  assert ended == [1]
  assert "was taken over or removed: ends" in capfd.readouterr().err
  assert path.exists() == (by == "taken over")


def test_a_store_that_fails_for_a_while_loses_no_lease(path, monkeypatch):
  monkeypatch.setattr(lease, "EXPIRES", 1.0)
  monkeypatch.setattr(lease, "BEAT", 0.05)
  monkeypatch.setattr(lease, "SETTLE", 0.0)
  monkeypatch.setattr(os, "_exit", lambda status: ended.append(status))
  ended, renew = [], lease._renew

  def fail(*args):
    raise RuntimeError("503")

  with lease.held(path, "process 1 on here", wait=False):
    monkeypatch.setattr(lease, "_renew", fail)
    time.sleep(0.3)
    monkeypatch.setattr(lease, "_renew", renew)
    time.sleep(0.3)
    assert not ended
    monkeypatch.setattr(lease, "_renew", fail)
    time.sleep(1.5)
    assert ended == [1]


def test_a_renewal_that_blocks_ends_its_holder_before_others_follow(
  path, monkeypatch
):
  monkeypatch.setattr(lease, "EXPIRES", 2.0)
  monkeypatch.setattr(lease, "BEAT", 0.2)
  monkeypatch.setattr(lease, "SETTLE", 0.0)
  monkeypatch.setattr(os, "_exit", lambda status: ended.append(time.time()))
  ended, back = [], threading.Event()
  with lease.held(path, "process 1 on here", wait=False):
    monkeypatch.setattr(lease, "_renew", lambda *args: back.wait(30))
    time.sleep(2.5)
    written = lease._read(path)["time"]
    back.set()
  assert ended and 1.0 < ended[0] - written < 2.0


def test_leases_are_of_one_size_whoever_holds_them(path):
  lease._renew(path, {"id": "1", "holder": "process 1 on here"})
  size = len(path.read_bytes())
  lease._renew(path, {"id": "20", "holder": "process 200000 on another"})
  assert len(path.read_bytes()) == size


def test_the_end_of_a_removed_lock_leaves_that_of_another_alone(tmp_path):
  folder = tmp_path / "run"
  first, second = lock.directory(folder), lock.directory(folder)
  with first:
    shutil.rmtree(folder)
    second.__enter__()
  with pytest.raises(lock.Held), lock.directory(folder):
    pass
  second.__exit__(None, None, None)
  assert not folder.exists()


def test_a_directory_is_made_for_its_writer_and_removed_if_nothing_came(
  tmp_path,
):
  folder = tmp_path / "a" / "b"
  with lock.directory(folder):
    with pytest.raises(lock.Held), lock.directory(folder):
      pass
  assert not list(tmp_path.iterdir())
  with lock.directory(folder):
    (folder / "file").touch()
  assert [path.name for path in folder.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  with pytest.raises(ValueError, match="cannot write .*nonesuch/.lock: No su"):
    with lock.exclusive(tmp_path / "nonesuch" / lock.NAME):
      pass
