"""What a release wrote, this version reads: runs, checkpoints, conversions.

tests/releases/make.py made the files of each version; they are never renewed.
"""

import json
import pathlib
import shutil

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

import t5x_lite
from launch import main
from tests.releases import make

RELEASES = make.ROOT / "tests" / "releases"
RUNS = sorted(
  path.parent.relative_to(RELEASES) for path in RELEASES.glob("*/*/run")
)


@pytest.fixture(params=RUNS, ids=str)
def release(request, tmp_path, monkeypatch):
  """Returns a copy of what a release made of one kind of model."""
  monkeypatch.chdir(make.ROOT)  # The run names its text from here.
  return pathlib.Path(
    shutil.copytree(RELEASES / request.param, tmp_path / request.param.name)
  )


def expected(release):
  return json.loads((release / "expected.json").read_text())


def test_each_release_has_both_kinds_and_this_version_is_one():
  versions = {path.parts[0] for path in RUNS}
  assert t5x_lite.__version__ in versions
  assert {path.parts for path in RUNS} == {
    (version, kind) for version in versions for kind in make.KINDS
  }


def test_a_run_of_a_release_trains_on_with_the_same_losses(release):
  assert_close(make.resume(release / "run"), expected(release)["losses"])


@pytest.mark.slow
def test_a_run_of_a_release_gives_the_same_evaluation_and_text(release):
  run = release / "run"
  before = evaluated(run)
  make.command("eval", f"--model_dir={run}")
  # What a later version records besides is its own.
  assert_close({name: evaluated(run)[name] for name in before}, before)
  found, wanted = make.infer(run, release.name), expected(release)["infer"]
  assert_close(found.pop("log_likelihood"), wanted.pop("log_likelihood"))
  assert {name: found[name] for name in wanted} == wanted


def evaluated(run):
  """Returns the metrics of a run's newest evaluation."""
  path = run / f"eval-{make.STEPS}.json"
  return json.loads(path.read_text())["results"][-1]["metrics"]


def assert_close(found, wanted):
  """Compares as far as another machine's arithmetic allows."""
  assert found == pytest.approx(wanted, rel=1e-3)


def test_conversions_of_a_release_hold_the_models_weights(release, tmp_path):
  """A split and a Hugging Face directory both give the same weights."""
  weights = []
  for source in ("run", "split"):
    target = tmp_path / f"from_{source}"
    words = [f"--input={release / source}", "--to=hf", f"--output={target}"]
    assert main.main(["convert", *words]) == 0
    weights.append(target / "model.safetensors")
  back = [f"--input={release / 'hf'}", f"--output={tmp_path / 'run'}"]
  assert main.main(["convert", *back, "--to=run"]) == 0
  again = tmp_path / "from_hf"
  words = [f"--input={tmp_path / 'run'}", "--to=hf", f"--output={again}"]
  assert main.main(["convert", *words]) == 0
  weights.append(again / "model.safetensors")
  recorded = safetensors_numpy.load_file(release / "hf" / "model.safetensors")
  for path in weights:
    found = safetensors_numpy.load_file(path)
    assert found.keys() == recorded.keys()
    for name, value in recorded.items():
      np.testing.assert_array_equal(found[name], value)
