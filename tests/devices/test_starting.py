"""Signals to one of two processes that start end both."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests import processes

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
    assert process.stdout.readline() == "joined\n", process.stderr.read()
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
  assert f"told to end ({number.name}) while the run was star" in said[told]
  assert "another process was told to end" in said[1 - told]
  assert not any("Traceback" in text for text in said)


@pytest.mark.slow
def test_jax_has_its_handler_of_sigterm_back_once_training_begins():
  started = start("training")
  started[1].send_signal(signal.SIGTERM)
  printed = {process.communicate(timeout=40)[0] for process in started}
  assert len(printed) == 1 and "stopped at" in printed.pop()
  assert [process.returncode for process in started] == [0, 0]
