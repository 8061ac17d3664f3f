"""Processes of one run that were started otherwise do not train."""

import pathlib
import socket
import subprocess
import sys

import pytest

from launch import rundir
from tests import processes
from tests.launch.test_rundir import Run

ROOT = pathlib.Path(__file__).parents[2]


def test_facts_hold_settings_code_and_versions():
  facts = rundir.facts(Run())
  assert facts["Run.mlp.hidden"] == "4" and "commit" in facts
  assert "version of jax" in facts
  changed = rundir.facts(Run(rate=0.2))
  assert {name for name in facts if facts[name] != changed[name]} == {
    "Run.rate"
  }


@pytest.mark.slow
def test_a_process_with_another_binding_is_named_by_all(tmp_path):
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    port = listener.getsockname()[1]

  def start(process, *flags):
    return subprocess.Popen(
      [
        sys.executable, "-m", "launch.main", "train",
        "--gin_file=gin/runs/quickstart.gin", f"--model_dir={tmp_path}/run",
        f"--coordinator_address=localhost:{port}", "--num_processes=2",
        f"--process_id={process}", *flags,
      ],
      cwd=ROOT, stderr=subprocess.PIPE, text=True,
      env=processes.environment(JAX_PLATFORMS="cpu"),
    )  # fmt: skip

  both = [start(0), start(1, "--gin.run.Run.seed=7")]
  printed = [process.communicate(timeout=300)[1] for process in both]
  assert [process.returncode for process in both] == [2, 2], printed
  lines = [text.splitlines()[-1] for text in printed]
  assert lines[0] == lines[1]
  wanted = "this run differ: Run.seed is 7 on process 1, 0 on the others; start"
  assert wanted in lines[0]
  assert not (tmp_path / "run").exists()
