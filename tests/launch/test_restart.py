"""A restart compiles nothing, and a signal during it asks for a profile."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

from tests import processes
from tests.launch import test_runs

# Trains as the command does, and counts the compilations that the cache of
# programs was asked for and those that it could not spare.
_COUNTED = """
import collections, json, sys
import jax
from launch import main
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: counts.update([name]))
print("listening", flush=True)
status = main.main(sys.argv[1:])
print(json.dumps(counts))
sys.exit(status)
"""
_ASKED = "/jax/compilation_cache/compile_requests_use_cache"
_HITS = "/jax/compilation_cache/cache_hits"


@pytest.fixture
def start(tmp_path):
  (tmp_path / "corpus.txt").write_text(
    "".join(f"Line {i} says that it is {i}, as ever.\n" for i in range(200))
  )
  settings = test_runs.RUN.format(corpus=tmp_path / "corpus.txt")
  gin_file = tmp_path / "tiny.gin"
  gin_file.write_text(
    textwrap.dedent(settings) + "run.Run.sample_every = 2\n"
    "run.Run.total_steps = 4\n"
  )
  environment = processes.environment(XDG_CACHE_HOME=str(tmp_path / "cache"))
  for name in (
    "COMPILATION_CACHE_DIR",
    "PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
  ):
    environment.pop(f"JAX_{name}", None)

  def start(*flags):
    return subprocess.Popen(
      [
        sys.executable, "-c", _COUNTED, "train", f"--gin_file={gin_file}",
        f"--model_dir={tmp_path}/run", *flags,
      ],
      env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      text=True,
    )  # fmt: skip

  return start


def counts(process):
  printed, said = process.communicate(timeout=600)
  assert process.returncode == 0, said
  return json.loads(printed.splitlines()[-1]), said


@pytest.mark.slow
def test_a_restart_compiles_nothing_and_a_signal_while_starting_is_not_fatal(
  start, tmp_path
):
  first, _ = counts(start())
  assert first[_ASKED] - first.get(_HITS, 0) > 5
  # As after a kill: the last steps, evaluation and samples come again.
  shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
  process = start()
  log = tmp_path / "run" / "run.json"
  starts = 1
  while starts < 2:  # The restart is about to open its data.
    starts = len(json.loads(log.read_text())["starts"])
    assert process.poll() is None
  process.send_signal(signal.SIGUSR1)
  again, said = counts(process)
  assert again[_ASKED] == again[_HITS]
  assert "profile of steps 3 to 4: " in said
