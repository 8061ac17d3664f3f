"""Flags that are checked early, and their names in messages."""

import types

import pytest

from launch import flag_checks
from t5x_lite.decoding import Sample


def flags(**values):
  """Returns flags, as absl has them."""
  return {n: types.SimpleNamespace(value=value) for n, value in values.items()}


@pytest.mark.parametrize(
  ("line", "said"),
  [
    ("family=llama cannot say it", "--family=llama cannot say it"),
    ("set truncate=True", "set --truncate=True"),
    ("in/config.json has no d_model", "--input=in/config.json has no d_model"),
    ("input.txt is empty", "input.txt is empty"),
    ("--family=t5 or none", "--family=t5 or none"),
    ("set Data.family=1 or unfamily=2", "set Data.family=1 or unfamily=2"),
    ("family = t5 is written there", "family = t5 is written there"),
    ("hf is wrong", "hf is wrong"),
  ],
)
def test_a_message_names_the_flags_of_the_command(line, said):
  names = ("family", "input", "to", "truncate")
  given = ["--input=in", "--to=hf", "--other=x"]
  assert flag_checks.named(line, names, given) == said


def test_a_flag_is_checked_as_the_field_of_its_name():
  names = ("temperature", "top_k")
  flag_checks.fit(flags(temperature=None, top_k=3), Sample, *names)
  with pytest.raises(ValueError, match="--top_k=0 must be at least 1; by def"):
    flag_checks.fit(flags(temperature=1.0, top_k=0), Sample, *names)


def test_an_output_is_tried_before_it_is_needed(tmp_path):
  (tmp_path / "file").write_text("kept")

  def refused(path, folder):
    values = flags(output=str(tmp_path / path))
    with pytest.raises(ValueError, match="--output=") as error:
      flag_checks.output(values, "output", folder=folder)
    return str(error.value).replace(str(tmp_path), "")

  assert refused("file", True) == "--output=/file is a file: name a directory"
  assert refused("", False) == "--output= is a directory: name a file"
  assert "/file: Not a directory" in refused("file/below/it", False)
  for path in ("file", "new", "new/below"):
    values = flags(output=str(tmp_path / path), none=None)
    flag_checks.output(values, "output")
    flag_checks.output(values, "none")
  flag_checks.output(flags(output="gs://bucket/a"), "output")
  assert (tmp_path / "file").read_text() == "kept"
  assert [path.name for path in tmp_path.iterdir()] == ["file"]
