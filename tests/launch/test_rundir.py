"""A run's directory: provenance, resuming, refusing another configuration."""

import dataclasses
import json
import os
import subprocess
import sys

import jax.numpy as jnp
import pytest

from launch import rundir
from t5x_lite.files import disk


@dataclasses.dataclass(frozen=True)
class Mlp:
  hidden: int = 4
  activation: object = jnp.tanh


@dataclasses.dataclass(frozen=True)
class Gated(Mlp):
  pass


@dataclasses.dataclass(frozen=True)
class Run:
  mlp: Mlp = Mlp()
  total_steps: int = 10
  lengths: dict = dataclasses.field(default_factory=lambda: {"inputs": 8})
  eval: tuple = ()
  rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Core:
  kernel: str = "einsum"
  scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class RunOfModel(Run):
  model: Core = Core()


@pytest.fixture
def started(tmp_path):
  directory = rundir.RunDirectory(tmp_path / "runs" / "a")
  assert directory.check(Run()) == []
  directory.start(Run(), ["t5x_lite", "train"])
  return directory


def test_two_runs_do_not_train_in_one_directory(started):
  other = rundir.RunDirectory(started.path)
  holder = rf"by process {os.getpid()} on \S+: wait"
  with started.locked():
    with pytest.raises(ValueError, match=holder), other.locked():
      pass
  with other.locked():  # It is free again.
    pass


def test_settings_are_flattened_to_readable_paths():
  assert rundir.flatten(Run(eval=("x",))) == {
    "mlp": "Mlp",
    "mlp.hidden": 4,
    "mlp.activation": "tanh",
    "total_steps": 10,
    "lengths": "1 entries",
    "lengths.inputs": 8,
    "eval": "1 entries",
    "eval.0": "x",
    "rate": 0.1,
  }


def test_settings_that_are_not_finite_are_told_apart_in_json():
  settings = [float("inf"), float("nan"), None, 1.0]
  assert rundir.flatten({"a": settings}) == {
    "": "1 entries",
    ".a": "4 entries",
    ".a.0": "inf",
    ".a.1": "nan",
    ".a.2": None,
    ".a.3": 1.0,
  }


def test_a_run_writes_its_provenance(started):
  record = json.loads((started.path / "run.json").read_text())
  assert record["configuration"]["mlp.hidden"] == 4
  assert {"jax", "flax", "python"} <= set(record["versions"])
  assert record["argv"] == ["t5x_lite", "train"]
  assert record["devices"] == "8 x cpu"
  assert (started.path / "config.gin").exists()
  assert (started.path / "operative_config.gin").exists()


def test_the_same_configuration_goes_on(started):
  again = rundir.RunDirectory(started.path)
  assert again.check(Run()) == []
  again.start(Run(), ["again"])
  record = json.loads((started.path / "run.json").read_text())
  assert [s["argv"] for s in record["starts"]] == [
    ["t5x_lite", "train"],
    ["again"],
  ]


def test_a_longer_run_goes_on_and_says_so(started):
  assert started.check(Run(total_steps=20)) == [
    "total_steps: 10 there, 20 here"
  ]


def test_a_run_goes_on_with_another_kernel_but_not_another_scale(tmp_path):
  directory = rundir.RunDirectory(tmp_path / "runs" / "a")
  assert directory.check(RunOfModel()) == []
  directory.start(RunOfModel(), ["t5x_lite", "train"])
  assert directory.check(RunOfModel(model=Core(kernel="auto"))) == [
    "model.kernel: 'einsum' there, 'auto' here"
  ]
  with pytest.raises(ValueError, match=r"model.scale is 1.0 there, 2.0 here"):
    directory.check(RunOfModel(model=Core(scale=2.0)))


@pytest.mark.parametrize(
  ["run", "message"],
  [
    (Run(rate=0.2), "rate is 0.1 there, 0.2 here"),
    (Run(mlp=Mlp(hidden=8)), "mlp.hidden is 4 there, 8 here"),
    (Run(mlp=Gated()), "mlp is 'Mlp' there, 'Gated' here"),
  ],
)
def test_another_configuration_is_refused_with_the_difference(
  started, run, message
):
  with pytest.raises(ValueError, match="has a run of another") as caught:
    started.check(run)
  assert message in str(caught.value)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", '{"configuration": {"rate"', "[]"])
def test_a_damaged_record_is_refused_in_a_line(started, content):
  (started.path / "run.json").write_text(content)
  for use in (
    lambda: started.check(Run()),
    lambda: started.start(Run(), ["again"]),
  ):
    with pytest.raises(ValueError, match="run.json is damaged: .*delete it"):
      use()


def test_a_run_that_never_began_leaves_nothing(tmp_path):
  directory = rundir.RunDirectory(tmp_path / "runs" / "a")
  directory.check(Run())
  directory.start(Run(), [])
  (directory.path / "checkpoints").mkdir()
  directory.undo()
  assert not list(tmp_path.iterdir())


def test_a_run_that_began_is_not_undone(started):
  (started.path / "metrics.jsonl").write_text("{}\n")
  started.undo()
  assert (started.path / "run.json").exists()


def test_a_run_with_a_checkpoint_is_not_undone(started):
  (started.path / "checkpoints" / "5").mkdir(parents=True)
  started.undo()
  assert (started.path / "run.json").exists()


def test_an_earlier_run_is_not_undone(started):
  again = rundir.RunDirectory(started.path)
  again.check(Run())
  again.start(Run(), [])
  again.undo()
  assert (started.path / "run.json").exists()


def test_a_file_in_the_way_is_refused(tmp_path):
  (tmp_path / "a").write_text("")
  with pytest.raises(ValueError, match="cannot be written to"):
    rundir.RunDirectory(tmp_path / "a" / "b").check(Run())


def test_a_full_disk_is_refused(tmp_path, monkeypatch):
  # Linux's device that is always full, where the first bytes would go.
  full = tmp_path / "full"
  full.symlink_to("/dev/full")
  monkeypatch.setattr(disk, "try_writing", lambda path: full.write_bytes(b" "))
  with pytest.raises(ValueError, match="cannot be written to: No space left"):
    rundir.RunDirectory(tmp_path).check(Run())


def test_four_processes_start_one_run_fifty_times(tmp_path):
  # All that they do to files before they join, with no device and no data.
  script = """
import multiprocessing, sys
from launch import rundir
from t5x_lite.files import disk
from tests.launch.test_rundir import Run

rundir.provenance = lambda argv: dict.fromkeys(("time", "argv", "commit"), "")

def start(number, barrier):
  for i in range(50):
    directory = rundir.RunDirectory(f"{sys.argv[1]}/runs/{i}")
    barrier.wait()
    assert directory.check(Run()) == []
    disk.check_writable(directory.path / "checkpoints")
    if number == 0:
      with directory.locked():
        directory.start(Run(), [])
        directory.start(Run(), [])
    else:
      for _ in range(3):  # They read what the first is writing.
        assert directory.check(Run()) == []

context = multiprocessing.get_context("fork")
barrier = context.Barrier(4, timeout=20)
starts = [context.Process(target=start, args=(i, barrier)) for i in range(4)]
for process in starts:
  process.start()
for process in starts:
  process.join()
sys.exit(max(process.exitcode for process in starts))
"""
  done = subprocess.run(
    [sys.executable, "-c", script, tmp_path], capture_output=True, text=True
  )
  assert not done.returncode, done.stderr[-2000:]
  runs = list((tmp_path / "runs").iterdir())
  assert len(runs) == 50
  files = {"config.gin", "operative_config.gin", "run.json", "checkpoints"}
  assert all({file.name for file in run.iterdir()} == files for run in runs)
  for run in runs:
    assert len(json.loads((run / "run.json").read_text())["starts"]) == 2


def test_what_another_process_made_first_is_undone_too(tmp_path):
  first, second = (
    rundir.RunDirectory(tmp_path / "runs" / "a") for _ in range(2)
  )
  second.check(Run())
  first.check(Run())
  first.start(Run(), [])
  first.undo()
  assert not list(tmp_path.iterdir())
