"""Gin of a run directory: what it may do, and how damage to it is noticed."""

import re
import sys

import pytest

from launch import config, gin_errors, main, recorded_gin

HEADER = "from __gin__ import dynamic_registration\n"


@pytest.fixture(autouse=True)
def path(monkeypatch):
  """Puts sys.path and the configuration back after the test."""
  monkeypatch.setattr(sys, "path", list(sys.path))
  yield
  config.load()


@pytest.fixture
def recorded(tmp_path):
  def write(text):
    path = tmp_path / "run" / "config.gin"
    path.parent.mkdir(exist_ok=True)
    path.write_text(HEADER + text)
    return path

  return write


def refused(path, allowed=()):
  """Returns what loading a run's configuration says, which must be one line."""
  with pytest.raises(gin_errors.ConfigError) as caught:
    config.load(recorded=path, allowed=allowed)
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("import os\nmodel.Model.loss = @os.system()", "imports os"),
    ("import os.path as p", "imports os.path"),
    ("from subprocess import run", "imports subprocess.run"),
    ("import t5x_lite_of_others", "imports t5x_lite_of_others"),
    ("from launch import rundir", "imports launch.rundir"),
    ("from t5x_lite.files import disk\nX = @disk.os.system()", "disk.os.syst"),
    ("from t5x_lite.files import disk\nX = [@a/disk.os.system]", "os.system"),
    ("from t5x_lite.files import disk\nX = {1: @disk.os.system()}", "disk.os"),
    ("from t5x_lite.files import disk\ndisk.os.system.command = 1", "disk.os"),
    ("from t5x_lite.files import disk\ndisk.os.system:\n  command = 1", "disk"),
    ("from t5x_lite.files import disk\nX = @disk.write_text()", "write_text"),
    ("from t5x_lite.inference import jsonl\nX = @jsonl.Output()", "Output"),
    ("from t5x_lite.nn import stack\nX = @stack.Stack.clone()", "Stack.clone"),
    ("from t5x_lite.nn import stack\nX = @stack.Stack.__init__()", "__init__"),
    ("from tasks import sources\nX = @sources.write_records()", "write_rec"),
    ("from tasks import text\nX = @text.seqio.Task()", "text.seqio"),
    ("X = @builtins.exec()", "'builtins' of builtins.exec is not imported"),
    ("X = @gin.macro.__globals__()", "'gin' of gin.macro.__globals__"),
    ('include "a.gin"', "includes no other file"),
  ],
)
def test_a_run_directory_refers_to_our_configurables_alone(
  recorded, text, message
):
  said = refused(recorded(text))
  assert message in said and "config.gin:" in said


def test_whatever_the_shipped_files_name_may_be_recorded(recorded):
  checked = 0
  for path in (config.shipped_folder() / "gin").rglob("*.gin"):
    text = re.sub(r"^include .*", "", path.read_text(), flags=re.M)
    if HEADER in text:
      recorded_gin.open_checked(recorded(text))
      checked += 1
  assert checked > 70


def test_names_need_dynamic_registration(tmp_path):
  (tmp_path / "config.gin").write_text("X = @anything_registered()\n")
  said = refused(tmp_path / "config.gin")
  assert "does not begin with `from __gin__" in said


def test_nothing_runs_before_it_is_allowed(recorded, tmp_path, capsys):
  mine, ran = tmp_path / "mine", tmp_path / "ran"
  mine.mkdir()
  (mine / "my_evil.py").write_text(f"open({str(ran)!r}, 'a').close()\nA = dict")
  config.load(recorded=recorded("X = 1"))  # What a safe one leaves behind.
  run = recorded(
    f"# Modules are imported from: {mine}\n"
    "from t5x_lite import model\nimport my_evil\nX = 1\n"
  ).parent
  (run / "my_evil.py").write_text(f"open({str(ran)!r}, 'a').close()")
  assert main.main(["describe", f"--model_dir={run}"]) == 2
  printed = capsys.readouterr().err
  assert printed.count("\n") == 1 and "--allow_import=my_evil" in printed
  assert f"imports my_evil (of {mine})" in printed
  assert not ran.exists()
  assert not {str(mine), str(run)} & set(sys.path)
  config.load(recorded=run / "config.gin", allowed=["my_evil"])
  assert ran.exists()


def test_what_is_allowed_is_not_more_than_it_names(recorded, tmp_path):
  (tmp_path / "my_tools.py").write_text("import os\ndef make(): return 1\n")
  sys.path.append(str(tmp_path))
  config.load(
    recorded=recorded("import my_tools\nX = @my_tools.make()"),
    allowed=["my_tools"],
  )
  text = "import my_tools\nX = @my_tools.os.system()"
  assert "my_tools.os" in refused(recorded(text), ["my_tools"])
  said = refused(recorded("import my_tools\nimport json\n"), ["my_tools"])
  assert "add --allow_import=my_tools,json" in said


def test_a_file_that_is_cut_anywhere_or_edited_is_noticed(tmp_path):
  path = tmp_path / "config.gin"
  config.load(["gin/optim/adamw.gin"])
  config.write(path)
  whole = path.read_bytes()
  config.load(recorded=path)
  for size in range(len(whole)):
    path.write_bytes(whole[:size])
    assert "config.gin is damaged: it has" in refused(path)
  path.write_bytes(whole.replace(b"0.1", b"0.2"))
  assert "cut or edited" in refused(path) and whole != path.read_bytes()
  path.write_bytes(b"\xff" + whole)
  assert "is not UTF-8" in refused(path)


def test_an_edit_that_is_meant_is_read(tmp_path):
  path = tmp_path / "config.gin"
  config.load(["gin/optim/adamw.gin"])
  config.write(path)
  lines = path.read_text().replace("0.1", "0.25").splitlines(keepends=True)
  path.write_text("".join(lines[1:]))
  config.load(recorded=path)
  assert "0.25" in config.text()


def test_packages_of_others_are_found_in_a_configuration(tmp_path):
  sys.path.append(str(tmp_path))
  (tmp_path / "my_own.py").write_text("")
  user = tmp_path / "user.gin"
  user.write_text(
    HEADER + "from t5x_lite.nn import stack\nimport my_own\nX = 1\n"
  )
  config.load([str(user)])
  assert recorded_gin.foreign_imports() == ["my_own"]
