"""A process whose neighbour is killed or stands still ends by itself."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from t5x_lite.devices import lost_process
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]
HEARTBEAT_SECONDS = 10

# Computes something together, for ever.
TOGETHER = """
import numpy as np
from jax.experimental import multihost_utils
from t5x_lite.devices import distributed, lost_process
distributed.initialize_distributed()
try:
  while True:
    multihost_utils.process_allgather(np.ones(3))
    print("step", flush=True)
except Exception as error:
  lost_process.end_if_lost(error)
  raise
"""


@pytest.fixture
def pair():
  """Starts two processes that compute together."""
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    port = listener.getsockname()[1]
  both = [
    subprocess.Popen(
      [sys.executable, "-c", TOGETHER], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env=processes.environment(
        JAX_PLATFORMS="cpu",
        T5X_LITE_COORDINATOR=f"localhost:{port}",
        T5X_LITE_NUM_PROCESSES="2",
        T5X_LITE_PROCESS_ID=str(i),
        T5X_LITE_HEARTBEAT_SECONDS=str(HEARTBEAT_SECONDS),
      ),
    )
    for i in (0, 1)
  ]  # fmt: skip
  try:
    while both[1].stdout.readline() != "step\n":
      assert both[1].poll() is None  # Gloo prints too.
    yield both
  finally:
    for process in both:
      process.kill()
      process.communicate()


@pytest.mark.parametrize(
  ["number", "status"],
  [(signal.SIGKILL, lost_process.STATUS), (signal.SIGSTOP, -signal.SIGABRT)],
)
def test_the_other_process_ends_within_the_heartbeat(pair, number, status):
  first, second = pair
  begun = time.monotonic()
  second.send_signal(number)
  _, said = first.communicate(timeout=120)
  assert first.returncode == status, said
  if number == signal.SIGKILL:  # The computation fails at once.
    (line,) = [line for line in said.splitlines() if "t5x_lite:" in line]
    assert "another process of this run has ended (" in line
    assert "Traceback" not in said
  else:  # It waits, until the heartbeat is missed.
    assert "heartbeat" in said
  assert time.monotonic() - begun < 3 * HEARTBEAT_SECONDS


@pytest.mark.parametrize("count", [1, 2])
def test_other_errors_and_a_single_process_end_as_usual(monkeypatch, count):
  monkeypatch.setattr(jax, "process_count", lambda: count)
  monkeypatch.setattr(os, "_exit", lambda status: pytest.fail("ended"))
  lost_process.end_if_lost(None)
  lost_process.end_if_lost(ValueError("the heartbeat of a text"))
  error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
  lost_process.end_if_lost(error)
  if count == 1:
    error = jax.errors.JaxRuntimeError("UNKNOWN: Connection closed by peer")
    lost_process.end_if_lost(error)
