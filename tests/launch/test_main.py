"""The command line: help pages, unknown words, exit statuses."""

import importlib
import os
import pathlib
import subprocess
import sys

import pytest

from launch import main

ROOT = pathlib.Path(__file__).parents[2]
HEAVY = {"jax", "numpy", "tensorflow", "seqio", "gin", "tasks", "flax"}


def t5x_lite(*arguments, cwd=ROOT, **environment):
  """Runs the command as a user does."""
  return subprocess.run(
    [sys.executable, "-m", "launch.main", *arguments],
    cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
  )  # fmt: skip


def modules_after(*arguments):
  code = (
    "import sys; from launch import main; main.main(sys.argv[1:]); "
    "print('LOADED', *sys.modules)"
  )
  printed = subprocess.run(
    [sys.executable, "-c", code, *arguments],
    cwd=ROOT, capture_output=True, text=True, check=True,
  ).stdout  # fmt: skip
  return set(printed.rpartition("LOADED")[2].split())


@pytest.mark.parametrize(
  "arguments", [["--help"], ["train", "--help"], ["tasks", "--help"]]
)
def test_help_loads_nothing_heavy(arguments):
  assert not HEAVY & modules_after(*arguments)


@pytest.mark.parametrize("command", main.COMMANDS)
def test_each_command_has_a_page_with_flags_and_an_example(command, capsys):
  assert main.main([command, "--help"]) == 0
  page = capsys.readouterr().out
  assert page.startswith(f"usage: t5x_lite {command}")
  assert "\nflags:\n" in page
  assert f"t5x_lite {command}" in page.partition("\nexample:\n")[2]
  assert max(map(len, page.splitlines())) <= 80


@pytest.mark.parametrize("command", main.COMMANDS)
def test_each_command_module_is_light(command):
  module = importlib.import_module(f"launch.{command.replace('-', '_')}")
  assert callable(module.define) and callable(module.main)


def test_overview_names_every_command(capsys):
  assert main.main([]) == 0
  page = capsys.readouterr().out
  assert all(f"  {name} " in page for name in main.COMMANDS)


@pytest.mark.parametrize(
  ["arguments", "message"],
  [
    (["trian"], "unknown command 'trian'; did you mean train?"),
    (
      ["train", "--modeldir=x"],
      "no flag --modeldir; did you mean --model_dir?",
    ),
    (["train", "--gin.SEED"], "--gin.SEED has no value"),
    (["train", "extra", "--model_dir=x"], "takes only flags"),
    (["train", "--num_processes=two"], "num_processes"),
    (["train"], "give --model_dir"),
  ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, message, capsys):
  assert main.main(arguments) == 2
  printed = capsys.readouterr().err
  assert message in printed
  assert printed.startswith("t5x_lite: error: ")
  assert len(printed.splitlines()) == 1


def test_missing_configuration_is_said(tmp_path, capsys):
  assert main.main(["train", f"--model_dir={tmp_path}"]) == 2
  assert "give --gin_file, or the directory of a run" in capsys.readouterr().err


def test_keyboard_interrupt_is_one_line_and_status_130(monkeypatch, capsys):
  def interrupt(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(main, "_dispatch", interrupt)
  assert main.main([]) == 130
  assert "interrupted" in capsys.readouterr().err


def test_defects_keep_their_traceback(monkeypatch):
  def defect(*_):
    raise TypeError("a defect")

  monkeypatch.setattr(main, "_dispatch", defect)
  with pytest.raises(TypeError, match="a defect"):
    main.main([])


def test_a_reader_that_leaves_is_no_error():
  command = f"{sys.executable} -m launch.main --help | head -n 1"
  done = subprocess.run(
    ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0
  assert not done.stderr


def test_a_command_that_loads_tensorflow_says_nothing_of_it():
  done = t5x_lite("infer", "--model_dir=/nonesuch", "--text=x")
  assert done.returncode == 2
  assert done.stderr
  assert all(x.startswith("t5x_lite: ") for x in done.stderr.splitlines())


def test_version():
  assert t5x_lite("--version").stdout.startswith("t5x_lite 0.")
