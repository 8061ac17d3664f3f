"""What happens to a run whose directory or disk fails while it trains."""

import shutil
import textwrap

import pytest

from t5x_lite.training import metrics_log
from tests.files.test_append import largest_file
from tests.launch import test_runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("faults")
  lines = [f"Line {i} says that {i} is {i}, as ever.\n" for i in range(200)]
  (folder / "corpus.txt").write_text("".join(lines))
  run = test_runs.RUN.format(corpus=folder / "corpus.txt")
  (folder / "tiny.gin").write_text(textwrap.dedent(run))
  return folder


def said_in_one_line(capsys) -> str:
  lines = capsys.readouterr().err.splitlines()
  assert not any("Traceback" in line for line in lines)
  (line,) = [line for line in lines if line.startswith("t5x_lite: error: ")]
  assert lines[-1] == line
  return line


def test_a_run_whose_directory_is_removed_stops_and_makes_none(
  folder, capsys, monkeypatch
):
  model_dir = folder / "removed"
  advance = metrics_log.Recorder.advance

  def remove(recorder, number):
    advance(recorder, number)
    shutil.rmtree(model_dir)

  monkeypatch.setattr(metrics_log.Recorder, "advance", remove)
  assert test_runs.train(folder, model_dir) == 2
  assert f"{model_dir}/metrics.jsonl was removed" in said_in_one_line(capsys)
  assert not model_dir.exists()


def test_a_full_disk_at_a_record_is_one_line_and_tears_nothing(
  folder, capsys, monkeypatch
):
  model_dir = folder / "full"
  write = metrics_log.Recorder._write

  def fill(recorder, number, *args):
    size = (model_dir / metrics_log.FILE).stat().st_size
    with largest_file(size + 50 if number == 2 else 1 << 40):
      write(recorder, number, *args)

  with monkeypatch.context() as full:
    full.setattr(metrics_log.Recorder, "_write", fill)
    assert test_runs.train(folder, model_dir) == 2
  assert "cannot write" in said_in_one_line(capsys)
  text = (model_dir / metrics_log.FILE).read_text()
  assert text.count("\n") == 1 and text.endswith("}\n")
  assert test_runs.train(folder, model_dir) == 0
  assert test_runs.steps(model_dir) == [1, 2]
