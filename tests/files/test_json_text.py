"""What is written as JSON, every JSON reader takes."""

import ast
import json
import logging
import math
import os
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_lite.files import json_text

TEXTS = st.text(st.characters(exclude_categories=()))
# Halves that meet become one character, and two names may become one.
NAMES = st.text(st.characters(exclude_categories=["Cs"])) | st.just("\ud83d")
VALUES = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
  lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner),
  max_leaves=8,
)


def expected(value):
  """Returns a value as JSON has it."""
  if isinstance(value, float) and not math.isfinite(value):
    return None
  if isinstance(value, list):
    return [expected(one) for one in value]
  if isinstance(value, dict):
    return {key: expected(one) for key, one in value.items()}
  if isinstance(value, str):  # Two halves side by side are one character.
    return value.encode("utf-16", "surrogatepass").decode(
      "utf-16", "surrogatepass"
    )
  return value


@settings(deadline=None, derandomize=True, database=None)
@given(VALUES, st.booleans())
def test_any_value_is_strict_json_in_utf8(value, ascii):
  text = json_text.dumps(value, ensure_ascii=ascii)
  found = json.loads(text.encode(), parse_constant=pytest.fail)
  assert found == expected(value)
  assert text.isascii() or not ascii


def test_one_place_writes_json():
  root = pathlib.Path(json_text.__file__).parents[2]
  for folder in ("t5x_lite", "launch"):
    for path in (root / folder).rglob("*.py"):
      tree = ast.parse(path.read_text())
      # What is hashed is read by nobody.
      hashed = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "encode"
      }
      calls = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and id(node) not in hashed
        and ast.unparse(node.func) in ("json.dump", "json.dumps")
      ]
      # The formats of interop are others', of whole numbers and settings; the
      # process of a peer, which imports nothing of ours, is read by Python; the
      # last two hand a schema and a tokenizer to the libraries that read them.
      elsewhere = path.parent.name == "interop" or path.name in (
        "json_text.py", "peer_process.py", "json_schema.py", "hf_files.py",
      )  # fmt: skip
      assert elsewhere or not calls, (path, calls)


def test_numbers_that_are_not_finite_are_named(caplog):
  value = {"a": {"b": [1.0, math.nan]}, "c": (-math.inf,), "d": 1e308}
  assert json_text.not_finite(value).keys() == {"a/b/1", "c/0"}
  with caplog.at_level(logging.WARNING):
    text = json_text.dumps(value, what="eval-3.json", sort_keys=True)
    json_text.dumps({"a": 1.0}, what="nothing to say")
    json_text.dumps([math.nan] * 8, what="list")
    json_text.dumps([math.nan])
  assert text == '{"a": {"b": [1.0, null]}, "c": [null], "d": 1e+308}'
  assert [record.getMessage() for record in caplog.records] == [
    "eval-3.json: a/b/1 is nan, c/0 is -inf (written as null)",
    "list: 0 is nan, 1 is nan, 2 is nan, 3 is nan, 4 is nan, 3 more "
    "(written as null)",
  ]


def test_a_record_that_is_cut_anywhere_is_refused_in_a_line(tmp_path):
  path = tmp_path / "run.json"
  whole = json.dumps({"step": 1, "loss": [2.5]})
  for length in range(len(whole)):
    path.write_text(whole[:length])
    with pytest.raises(ValueError, match="run.json is damaged: ") as error:
      json_text.read(path, "step", remedy="delete it")
    assert str(error.value).endswith("; delete it")
    assert "\n" not in str(error.value)
  path.write_text(whole)
  assert json_text.read(path, "step") == {"step": 1, "loss": [2.5]}


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    (b"", "it is empty"),
    (b" \n", "it is empty"),
    (b"\xff\xfe\x00", "it is not JSON"),
    (b"[" * 100_000, "it is nested more than 100 levels deep|it is not JSON"),
    (b'{"a": ' * 500 + b"1" + b"}" * 500, "it is nested more than 100 levels"),
    (b"[1]", "it is not a JSON object"),
    (b"{}", "it lacks 'step'"),
  ],
)
def test_a_record_of_something_else_is_refused_in_a_line(
  tmp_path, content, reason
):
  path = tmp_path / "measures.json"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=f"measures.json is damaged: {reason}"):
    json_text.read(path, "step")


def test_a_pipe_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / "config.json")
  with pytest.raises(ValueError, match="config.json is not a file"):
    json_text.read(tmp_path / "config.json")
