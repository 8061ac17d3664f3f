"""Signals to one of two processes that start end both."""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import jax
import pytest

from t5x_lite.devices import starting
from t5x_lite.training import stop
from tests import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Process 0 waits for the other, as a collective or a checkpoint does; process 1
# is busy, as with reading data or compiling.
START = """
import sys, time
import jax
from t5x_lite.devices import distributed, starting
jax.config.update("jax_num_cpu_devices", 1)
port, number, moment = sys.argv[1:]
distributed.initialize_distributed(
  coordinator_address=f"localhost:{port}", num_processes=2,
  process_id=int(number),
)
from jax.experimental import multihost_utils
if moment == "training":
  starting.finish()
print("joined", flush=True)
if moment == "starting":
  if number == "0":
    multihost_utils.sync_global_devices("compiled")
  time.sleep(30)
step = 0
while not multihost_utils.reached_preemption_sync_point(step):
  time.sleep(0.05)
  step += 1
print("stopped at", step, flush=True)
"""


def start(moment):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  started = [
    subprocess.Popen(
      [sys.executable, "-c", START, str(port), str(number), moment],
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      env=processes.environment(JAX_PLATFORMS="cpu"),
    )
    for number in range(2)
  ]  # fmt: skip
  for process in started:
    # Gloo's lines may come first.
    while (line := process.stdout.readline()) != "joined\n":
      assert line, process.stderr.read()
  return started


@pytest.mark.slow
@pytest.mark.parametrize(
  ("told", "number", "status"),
  [(1, signal.SIGTERM, os.EX_TEMPFAIL), (0, signal.SIGINT, 130)],
)
def test_both_end_when_one_is_told_to_while_they_start(told, number, status):
  started = start("starting")
  begun = time.monotonic()
  started[told].send_signal(number)
  said = [process.communicate(timeout=40)[1] for process in started]
  assert time.monotonic() - begun < 20
  assert started[told].returncode == status
  assert started[1 - told].returncode == status
  assert f"told to end ({number.name}): all processes of this" in said[told]
  assert "another process was told to end" in said[1 - told]
  assert not any("Traceback" in text for text in said)


@pytest.mark.slow
def test_jax_has_its_handler_of_sigterm_back_once_training_begins():
  started = start("training")
  started[1].send_signal(signal.SIGTERM)
  printed = {process.communicate(timeout=40)[0] for process in started}
  assert len(printed) == 1 and "stopped at" in printed.pop()
  assert [process.returncode for process in started] == [0, 0]


@pytest.fixture
def watched(monkeypatch):
  """A watch without JAX's handler, and how it ended its process."""
  before = {one: signal.getsignal(one) for one in SIGNALS}
  ends = queue.SimpleQueue()

  def end(status):
    ends.put(status)
    threading.Event().wait()  # The thread goes no further.

  class Client:
    def key_value_set(self, *ignored):
      raise jax.errors.JaxRuntimeError("UNAVAILABLE: process 0 is gone")

    key_value_try_get = key_value_set

  joined = types.SimpleNamespace(client=Client(), process_id=1)
  monkeypatch.setattr(
    starting.multihost_utils.distributed, "global_state", joined
  )
  monkeypatch.setattr(starting, "_take_jax_handler", lambda: None)
  monkeypatch.setattr(starting.os, "_exit", end)
  starting.watch()
  yield ends
  starting.finish()
  for one, handler in before.items():
    signal.signal(one, handler)


def test_a_process_is_ended_though_process_0_cannot_be_told(watched, capfd):
  os.kill(os.getpid(), signal.SIGTERM)
  assert watched.get(timeout=10) == os.EX_TEMPFAIL
  assert "told to end (SIGTERM)" in capfd.readouterr().err


def test_a_signal_in_the_end_of_the_start_is_for_training(watched, monkeypatch):
  unset = signal.set_wakeup_fd

  def signalled(number):
    unset(number)
    monkeypatch.undo()
    os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(starting.signal, "set_wakeup_fd", signalled)
  with stop.Stop() as asked:
    assert asked.signal == signal.SIGTERM
  assert watched.empty()
