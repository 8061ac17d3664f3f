"""Results survive any interruption."""

import json
import logging
import math
import subprocess
import sys

import pytest

from t5x_lite.inference import jsonl

JOB = {"input": "abc", "seed": 0}


def lines(path):
  return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_rerun_goes_on_after_the_last_complete_line(tmp_path):
  path = tmp_path / "out.jsonl"
  with jsonl.Output(path, JOB) as out:
    out.append([{"i": 0}, {"i": 1}])
  with path.open("a") as f:
    f.write('{"i": 2, "tex')
  with jsonl.Output(path, JOB) as out:
    assert out.num_lines == 2
    out.append([{"i": 2, "text": "é\n"}])
    assert out.num_lines == 3
  assert lines(path) == [{"i": 0}, {"i": 1}, {"i": 2, "text": "é\n"}]


def test_every_line_is_json_whatever_a_record_holds(tmp_path, caplog):
  path = tmp_path / "out.jsonl"
  odd = {"id": math.nan, "\ud83d": [{"a": "é\udc00"}], "ids": [1.5, -math.inf]}
  with caplog.at_level(logging.WARNING), jsonl.Output(path, JOB) as out:
    out.append([{"i": 0}, odd])
    out.append([odd, odd | {"score": math.inf}])
  lines = path.read_text("utf-8").splitlines()
  found = [json.loads(line, parse_constant=pytest.fail) for line in lines]
  good = {**odd, "id": None, "ids": [1.5, None]}
  assert found == [{"i": 0}, good, good, good | {"score": None}]
  assert "é" in lines[1] and r"\ud83d" in lines[1]
  said = [record.getMessage() for record in caplog.records]
  assert [line.partition(", ")[2] for line in said] == [
    "from line 2: id is nan, ids/1 is -inf (written as null)",
    "from line 4: score is inf (written as null)",
  ]


def test_a_first_line_that_is_cut_short_is_no_line(tmp_path):
  path = tmp_path / "out.jsonl"
  jsonl.Output(path, JOB).close()
  path.write_text("{")
  with jsonl.Output(path, JOB) as out:
    assert out.num_lines == 0
  assert path.read_text() == ""


def test_another_jobs_file_is_refused_and_left_alone(tmp_path):
  path = tmp_path / "out.jsonl"
  with jsonl.Output(path, JOB) as out:
    out.append([{"i": 0}])
  with pytest.raises(ValueError, match=r"a different seed \(was 0, is 1\)"):
    jsonl.Output(path, {**JOB, "seed": 1})
  stranger = tmp_path / "notes.txt"
  stranger.write_text("my notes")
  with pytest.raises(ValueError, match="was not written by this command"):
    jsonl.Output(stranger, JOB)
  assert lines(path) == [{"i": 0}] and stranger.read_text() == "my notes"


def test_two_writers_are_refused(tmp_path):
  path = tmp_path / "out.jsonl"
  with jsonl.Output(path, JOB):
    with pytest.raises(ValueError, match="written by process"):
      jsonl.Output(path, JOB)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
  with pytest.raises(ValueError, match="cannot write .*: No such file"):
    jsonl.Output(tmp_path / "none" / "out.jsonl", JOB)
  with pytest.raises(ValueError, match="cannot write .*: Is a directory"):
    jsonl.Output(tmp_path, JOB)


def test_a_full_disk_leaves_complete_lines(tmp_path):
  path = tmp_path / "out.jsonl"
  code = f"""
import resource, signal
from t5x_lite.inference import jsonl
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
with jsonl.Output({str(path)!r}, {JOB!r}) as out:
  out.append([{{"i": 0}}])
  try:
    out.append([{{"i": 1}}, {{"text": "x" * 200}}])
  except ValueError as e:
    print(e)
"""
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert "File too large; its 1 lines are complete" in done.stdout
  assert lines(path) == [{"i": 0}]
