"""The built wheel: complete, and its gin files found from any directory."""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
  """Returns a folder with the wheel's contents, as pip would lay them."""
  folder = tmp_path_factory.mktemp("wheel")
  subprocess.run(
    [
      sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps",
      "--no-build-isolation", "--disable-pip-version-check", "--no-index",
      f"--wheel-dir={folder}", str(ROOT),
    ],
    check=True,
  )  # fmt: skip
  (wheel,) = folder.glob("*.whl")
  site = folder / "site"
  zipfile.ZipFile(wheel).extractall(site)
  return site


def python(code, installed, cwd):
  return subprocess.run(
    [sys.executable, "-c", code],
    cwd=cwd, capture_output=True, text=True, check=True,
    env=os.environ | {"PYTHONPATH": str(installed)},
  ).stdout  # fmt: skip


def test_wheel_has_the_packages_and_the_command(installed):
  for name in ("t5x_lite/nn/stack.py", "tasks/mixtures.py", "launch/main.py"):
    assert (installed / name).exists()
  (metadata,) = installed.glob("*.dist-info")
  commands = (metadata / "entry_points.txt").read_text()
  assert "t5x_lite = launch.main:main" in commands
  assert not (installed / "gin").exists()
  assert not (installed / "tests").exists()


def test_gin_files_of_the_wheel_are_found_from_any_directory(
  installed, tmp_path
):
  code = """
import gin, t5x_lite
from launch import config
from t5x_lite import model
for name in ("gin/models/t5_1_1/small.gin", "models/t5_1_1/small.gin"):
  config.load([name])
  print(config.build(model.Model).transformer.width)
print(t5x_lite.__file__)
"""
  first, second, where = python(code, installed, tmp_path).splitlines()
  assert first == second == "512"
  assert where.startswith(str(installed))
