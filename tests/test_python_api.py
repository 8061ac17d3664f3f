"""docs/python_api.md, run as it is."""

import ast
import pathlib
import subprocess
import sys

from launch import main
from t5x_lite import training
from tests import guides
from tests.launch.test_mistakes import write_hf

ROOT = pathlib.Path(__file__).parents[1]


def program() -> str:
  return guides.blocks("python_api.md", "python")[1]


def test_six_lines_lead_from_a_run_to_text(tmp_path, monkeypatch, capsys):
  text, _ = guides.blocks("python_api.md", "python")
  assert len([line for line in text.splitlines() if line]) <= 6
  write_hf(tmp_path / "hf")
  run = tmp_path / "runs" / "quickstart"
  convert = [f"--input={tmp_path}/hf", "--to=run", f"--output={run}"]
  assert main.main(["convert", *convert]) == 0
  monkeypatch.chdir(tmp_path)
  capsys.readouterr()
  exec(compile(text, "docs/python_api.md", "exec"), {})
  generated, scores = map(
    ast.literal_eval, capsys.readouterr().out.splitlines()
  )
  assert [type(text) for text in generated] == [str]
  assert len(scores) == 1 and scores[0] < 0


def test_the_program_of_the_guide_learns_generates_saves_and_loads(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  names = {}
  exec(compile(program(), "docs/python_api.md", "exec"), names)
  accuracy, generated = capsys.readouterr().out.splitlines()
  assert float(accuracy) > 0.9
  assert generated == "[[ 6  7  8  9 10 11]]"
  assert names["at_step"] == int(names["state"].step) == 60
  assert (tmp_path / "runs/mine/checkpoints/60").is_dir()


def test_the_program_has_fewer_than_40_lines():
  lines = ast.unparse(ast.parse(program())).splitlines()
  assert len([line for line in lines if line]) < 40
  written = [line for line in program().splitlines() if line.strip()]
  assert len([line for line in written if line[0] != "#"]) < 40


def test_the_name_of_a_function_is_not_hidden_by_its_module():
  import t5x_lite.training.train as module_path_or_function
  from t5x_lite.training.train import train

  assert training.train is train is module_path_or_function


def test_runs_and_steps_need_neither_tensorflow_nor_orbax():
  code = (
    "import sys; from t5x_lite import checkpoints, nn, optim, training; "
    "training.Run, training.train_step, checkpoints.Retention, nn.Stack; "
    "print(*sys.modules)"
  )
  loaded = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT, capture_output=True, text=True, check=True,
  ).stdout.split()  # fmt: skip
  assert not {"tensorflow", "seqio", "orbax"} & set(loaded)
