"""Files of texts are read line by line; results survive any interruption."""

import gzip
import json
import subprocess
import sys

import pytest

from t5x_lite import jsonl

JOB = {"input": "abc", "seed": 0}


def lines(path):
  return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_reads_objects_and_skips_blank_lines(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text('{"inputs": "é"}\n\n{"inputs": "b", "id": 7}', "utf-8")
  assert list(jsonl.read(path)) == [
    (f"{path}, line 1", {"inputs": "é"}),
    (f"{path}, line 3", {"inputs": "b", "id": 7}),
  ]


def test_reads_plain_and_packed_lines_as_texts(tmp_path):
  path = tmp_path / "a.txt"
  path.write_bytes(b"\xef\xbb\xbfone\r\n  two\n")
  assert [r.fields["text"] for r in jsonl.read(path)] == ["one", "  two"]
  packed = tmp_path / "a.txt.gz"
  packed.write_bytes(gzip.compress(path.read_bytes()))
  assert [r.fields["text"] for r in jsonl.read(packed)] == ["one", "  two"]


@pytest.mark.parametrize(
  "name, data, message",
  [
    ("a.jsonl", b'{"a": 1}\n{"a": \n', r"a.jsonl, line 2: bad JSON at column"),
    ("a.jsonl", b'["a"]\n', r'a.jsonl, line 1: expected .* got \["a"\]'),
    ("a.txt", b"ab\nc\xff\n", r"a.txt is not UTF-8: byte 4 is 0xff"),
    ("a.txt.gz", b"no gzip", r"cannot read .*a.txt.gz: Not a gzipped file"),
  ],
)
def test_bad_lines_are_named(tmp_path, name, data, message):
  path = tmp_path / name
  path.write_bytes(data)
  with pytest.raises(ValueError, match=message):
    list(jsonl.read(path))


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(ValueError, match="cannot read .*none.txt: No such file"):
    list(jsonl.read(tmp_path / "none.txt"))


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
  with pytest.raises(ValueError, match=r"another seed \(was 0, is 1\)"):
    jsonl.Output(path, {**JOB, "seed": 1})
  stranger = tmp_path / "notes.txt"
  stranger.write_text("my notes")
  with pytest.raises(ValueError, match="was not written by this command"):
    jsonl.Output(stranger, JOB)
  assert lines(path) == [{"i": 0}] and stranger.read_text() == "my notes"


def test_two_writers_are_refused(tmp_path):
  path = tmp_path / "out.jsonl"
  with jsonl.Output(path, JOB):
    with pytest.raises(ValueError, match="written by another process"):
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
from t5x_lite import jsonl
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
