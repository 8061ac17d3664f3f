"""docs/extend.md, run as it is: modules of the user's own, from anywhere."""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

from launch import config, gin_errors, gin_writer, main, user_modules
from tests import guides

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def path(monkeypatch):
  """Puts sys.path and the configuration back after the test."""
  monkeypatch.setattr(sys, "path", list(sys.path))
  yield list(sys.path)
  config.load()


def run(command, monkeypatch):
  """Runs a line of the guide; returns a t5x_lite command's exit status."""
  name, *words = shlex.split(command)
  if name == "t5x_lite":
    return main.main(words)
  if name == "mkdir":
    pathlib.Path(*words).mkdir()
  elif name == "cd":
    monkeypatch.chdir(*words)
  else:
    assert name == "mv"
    shutil.move(*words)
  return 0


@pytest.mark.slow
def test_the_guide_works_as_it_stands(tmp_path, monkeypatch, path, capsys):
  monkeypatch.chdir(tmp_path)
  for name, content in guides.files("extend.md").items():
    pathlib.Path(name).parent.mkdir(exist_ok=True)
    pathlib.Path(name).write_text(content)
  printed = {}
  for command in guides.commands("extend.md"):
    sys.path[:] = path  # As a new process has it.
    if "--gin_search_paths" in command:  # What the guide says of its absence.
      without = command.partition(" --gin_search_paths")[0]
      with monkeypatch.context() as as_new:
        as_new.delitem(sys.modules, "my_layer")
        assert run(without, monkeypatch) == 2
      said = capsys.readouterr().err
      assert "no module my_layer" in said and said.count("\n") == 1
      assert f"{tmp_path}/mine" in said and "--gin_search_paths=" in said
    assert run(command, monkeypatch) == 0, command
    if command.startswith("t5x_lite"):
      output = capsys.readouterr().out
      printed.setdefault(command.split()[1], []).append(output)
  assert {"describe", "tasks", "train", "eval", "infer"} == set(printed)
  usual, wider = printed["describe"]
  assert usual != wider and "decoder/mlp" in usual
  assert "Restores a text from which tokens are missing" in printed["tasks"][0]
  assert all("words_kept" in text for text in printed["eval"])
  saved = (tmp_path / "runs/mine/config.gin").read_text()
  recorded = f"# Modules are imported from: {tmp_path}/mine\n"
  assert recorded in saved.splitlines(keepends=True)[:2]
  assert main.main(["eval", "--model_dir=../runs/mine"]) == 2
  said = capsys.readouterr().err
  assert said.count("\n") == 1
  assert "add --allow_import=my_layer,my_metric,my_objective" in said


@pytest.fixture
def mine(tmp_path, request):
  """A folder with one module, whose name no other test has."""
  folder = tmp_path / "mine"
  folder.mkdir()
  name = f"my_{request.node.name.removeprefix('test_')}"
  (folder / f"{name}.py").write_text(
    "import dataclasses\n\n"
    "@dataclasses.dataclass(frozen=True)\nclass Thing:\n  size: int = 1\n"
  )
  return folder, name


def write(path, *lines):
  header = "from __gin__ import dynamic_registration"
  path.write_text("\n".join([header, *lines]) + "\n")
  return str(path)


def size(name):
  return config.build(sys.modules[name].Thing).size


def test_a_saved_configuration_finds_the_modules_again(mine, tmp_path):
  folder, name = mine
  gin_file = write(folder / "a.gin", f"import {name}", f"{name}.Thing.size = 2")
  config.load([gin_file])
  saved = tmp_path / "saved.gin"
  saved.write_text(config.text())
  code = (
    "import sys; from launch import config; config.load(sys.argv[1:2]); "
    "print(config.build(sys.modules[sys.argv[2]].Thing).size, config.text())"
  )
  printed = subprocess.run(
    [sys.executable, "-c", code, str(saved), name],
    cwd="/", capture_output=True, text=True, check=True,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  ).stdout  # fmt: skip
  assert printed.startswith(f"2 # Modules are imported from: {folder}\n")


def test_search_paths_hold_modules_and_flags_need_no_import(mine):
  folder, name = mine
  config.load([], [f"{name}.Thing.size=4"], [str(folder)])
  assert size(name) == 4


def test_an_included_file_brings_its_folder(mine, tmp_path):
  folder, name = mine
  write(folder / "a.gin", f"import {name}", f"{name}.Thing.size = 5")
  config.load([write(tmp_path / "b.gin", f'include "{folder}/a.gin"')])
  assert size(name) == 5


def test_nothing_is_recorded_without_modules_of_ones_own(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # No module of Python's own is from there.
  config.load([write(tmp_path / "a.gin", 'include "models/palm/tiny.gin"')])
  assert not config.text().startswith("#")


def test_an_object_of_ones_own_is_written_and_read(mine, tmp_path):
  folder, name = mine
  config.load([write(folder / "a.gin", f"import {name}")])
  thing = sys.modules[name].Thing(size=7)
  text = gin_writer.text(thing)
  assert f"\nimport {name}\n" in text
  (tmp_path / "b.gin").write_text(user_modules.record(text))
  config.load([tmp_path / "b.gin"])
  assert size(name) == 7


def test_what_is_installed_comes_first(mine):
  folder, name = mine
  config.load([write(folder / "a.gin", f"import {name}")])
  assert sys.path[-1] == str(folder)
  assert name in user_modules.names()


def test_a_misspelt_module_is_named(mine):
  folder, name = mine
  with pytest.raises(gin_errors.ConfigError, match=f"did you mean {name}?"):
    config.load([write(folder / "a.gin", f"import {name}s")])


def test_a_module_without_its_import_is_explained(mine):
  folder, name = mine
  gin_file = write(folder / "a.gin", f"{name}.Thing.size = 2")
  with pytest.raises(gin_errors.ConfigError, match=f"`import {name}`"):
    config.load([gin_file])


def test_a_mistake_inside_a_module_keeps_its_traceback(tmp_path):
  folder = tmp_path / "gin"  # As gin's own package is called.
  folder.mkdir()
  (folder / "my_broken.py").write_text("undefined\n")
  with pytest.raises(NameError):
    config.load([write(folder / "a.gin", "import my_broken")])
