"""Bad lines of a job's input are refused, or skipped and listed."""

import json

import pytest

from t5x_lite.inference import infer
from tests.inference.test_infer import alphabet, generation, lines

LINES = [
  '{"inputs": "b"}',
  '{"inputs": "\\ud83d"}',
  '{"inputs": ' + "9" * 5001 + "}",
  "[" * 10_000,
  '{"inputs": "zero \0 byte"}',
  json.dumps({"inputs": "x" * 5_000_000}),
  '{"inputs": "c", "id": 7}',
  '{"other": "d"}',
  '{"inputs": 5}',
  '{"inputs": "b',
]
BAD = [2, 3, 4, 5, 6, 8, 9, 10]


@pytest.mark.parametrize("number", BAD)
def test_a_bad_line_is_named(number, tmp_path):
  given = tmp_path / "in.jsonl"
  given.write_text(f"{LINES[0]}\n{LINES[number - 1]}\n")
  with pytest.raises(ValueError, match=r"in\.jsonl, line 2") as caught:
    infer.run_file(generation(), alphabet(), given, tmp_path / "out.jsonl")
  message = str(caught.value)
  assert "\n" not in message and len(message) < 400
  assert not (tmp_path / "out.jsonl").exists()


def test_bad_lines_are_skipped_and_listed(tmp_path):
  given, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
  given.write_text("".join(f"{line}\n" for line in LINES))
  arguments = generation(), alphabet(), str(given), str(out)
  assert infer.run_file(*arguments, skip_bad=True, batch_size=1) == 2
  assert [line["prediction"] for line in lines(out)] == ["cde", "de"]
  assert lines(out)[1]["id"] == 7
  bad = lines(tmp_path / "out.bad.jsonl")
  assert [line["line"] for line in bad] == BAD
  assert all(f"line {line['line']}" in line["error"] for line in bad)
  # A job that was interrupted goes on after its last line.
  whole = out.read_text()
  out.write_text(whole.splitlines(keepends=True)[0])
  assert infer.run_file(*arguments, skip_bad=True) == 2
  assert out.read_text() == whole


def test_a_file_of_bad_lines_alone_is_refused(tmp_path):
  given = tmp_path / "in.jsonl"
  given.write_text(f"{LINES[7]}\n")
  with pytest.raises(ValueError, match="no texts; the first of 1 bad lines: "):
    infer.run_file(
      generation(), alphabet(), given, tmp_path / "o.jsonl", skip_bad=True
    )


def test_samples_of_a_line_follow_one_another_and_resume(tmp_path):
  from t5x_lite.decoding import Sample

  given, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
  given.write_text('{"inputs": "b", "id": 1}\n{"inputs": "c", "id": 2}\n')
  job = generation(sampler=Sample(temperature=9.0), max_new_tokens=4)
  arguments = job, alphabet(), given, out
  assert infer.run_file(*arguments, num_samples=3, batch_size=2) == 6
  found = lines(out)
  assert [line["id"] for line in found] == [1, 1, 1, 2, 2, 2]
  assert len({line["prediction"] for line in found}) > 2
  whole = out.read_text()
  out.write_text("".join(whole.splitlines(keepends=True)[:4]))
  infer.run_file(*arguments, num_samples=3, batch_size=2)
  assert out.read_text() == whole
  with pytest.raises(ValueError, match="different num_samples"):
    infer.run_file(*arguments, num_samples=2)
