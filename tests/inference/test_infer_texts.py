"""Jobs read any file of texts, and say which text is wrong before they run."""

import gzip
import json
import os

import jax
import jax.numpy as jnp
import pytest

from t5x_lite.inference import infer
from tests.decoding.markov import Markov
from tests.inference.test_infer import (
  alphabet,
  codec,
  generation,
  lines,
  noise,
  write,
)


@pytest.mark.parametrize("name", ["in.json.gz", "IN", "in.txt"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_json_lines_are_records_by_any_name(tmp_path, name, pack):
  (tmp_path / name).write_bytes(pack(b'{"text": "a", "id": 1}\r{"text": "b"}'))
  path_out = tmp_path / "out.jsonl"
  infer.run_file(generation(), alphabet(), tmp_path / name, path_out)
  assert [(r["text"], r["prediction"]) for r in lines(path_out)] == [
    ("a", "bcde"), ("b", "cde"),
  ]  # fmt: skip


def test_a_damaged_file_is_named_before_anything_is_written(tmp_path):
  path_in = tmp_path / "in.jsonl.gz"
  records = b"".join(b'{"text": "%c"}\n' % c for c in b"abcd" * 5000)
  path_in.write_bytes(gzip.compress(records)[:-9])
  with pytest.raises(ValueError, match="cannot read .*in.jsonl.gz after line"):
    infer.run_file(generation(), alphabet(), path_in, tmp_path / "out.jsonl")
  assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl.gz"]


def test_a_pipe_is_refused(tmp_path):
  os.mkfifo(tmp_path / "in")
  with pytest.raises(ValueError, match="in is a pipe, but must be read"):
    infer.run_file(
      generation(), alphabet(), tmp_path / "in", tmp_path / "out.jsonl"
    )


def test_carried_fields_come_through_as_json_can_hold_them(tmp_path):
  fields = {"\ud83d": ["é\udc00", {"x": "\0\u2028"}], "n": 10**40}
  given = [{"text": "a", **fields}, {"text": "b", "n": [1.5, float("nan")]}]
  path_in = write(tmp_path / "in.jsonl", *given)
  path_out = tmp_path / "out.jsonl"
  infer.run_file(generation(), alphabet(), path_in, path_out)
  first, second = (
    json.loads(line, parse_constant=pytest.fail)
    for line in path_out.read_text("utf-8").split("\n")[:-1]
  )
  assert first == {**first, **given[0]}
  assert second["n"] == [1.5, None]
  # As a rerun reads them.
  infer.run_file(generation(), alphabet(), path_in, path_out)


def test_a_score_that_is_not_finite_is_null(tmp_path, caplog):
  params = jax.tree.map(lambda x: x * jnp.nan, alphabet())
  job = infer.Score(model=Markov(), codec=codec(), per_token=True)
  path_out = tmp_path / "out.jsonl"
  infer.run_file(job, params, write(tmp_path / "in", {"text": "a"}), path_out)
  (found,) = (
    json.loads(line, parse_constant=pytest.fail)
    for line in path_out.read_text().splitlines()
  )
  assert found["log_likelihood"] is None
  assert found["token_log_likelihoods"] == [None, None]
  assert "out.jsonl, from line 1: log_likelihood is nan" in caplog.text


@pytest.mark.parametrize(
  "record",
  [
    {"inputs": "a \ud83d"},
    {"text": "<extra_id_0> \udfff", "id": 1},
    {"targets": "a", "inputs": "\udc80"},
    {"targets": "\ud83d\ud83d", "text": "a"},
  ],
)
def test_a_lone_surrogate_is_refused_before_anything_runs(record, monkeypatch):
  kind = infer.Score if "targets" in record else infer.Generate
  monkeypatch.setattr(kind, "compute", None)
  job = kind(model=Markov(), codec=codec())
  match = (
    r"text 2: the text has a lone surrogate, \\ud[0-9a-f]{3}, as character"
  )
  with pytest.raises(ValueError, match=match):
    infer.run(job, noise(), [{"text": "a", "targets": "b"}, record])
