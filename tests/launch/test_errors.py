"""What is the user's mistake, and what is a defect."""

import errno
import json

import pytest

from launch import config, errors
from t5x_lite import model


def raised(function):
  with pytest.raises(Exception) as caught:
    function()
  return caught.value


def test_a_refused_setting_names_its_place_in_one_line():
  config.load(
    ["gin/models/t5_1_1/small.gin"],
    ["decoder/attention.Attention.num_heads=10",
     "decoder/attention.Attention.num_kv_heads=3"],
  )  # fmt: skip
  line = errors.user_line(raised(lambda: config.build(model.Model)))
  assert "num_heads (10) must be divisible by num_kv_heads (3)" in line
  assert line.endswith("[in decoder/Attention]")
  assert "\n" not in line


def test_a_library_s_value_error_is_a_defect():
  assert errors.user_line(raised(lambda: json.loads("{"))) is None


def test_a_type_error_is_a_defect():
  assert errors.user_line(raised(lambda: config.load(3))) is None


def test_a_full_disk_is_said_whoever_meets_it():
  full = OSError(errno.ENOSPC, "No space left on device", "/run/checkpoints")
  line = errors.user_line(full)
  assert line.startswith("the disk is full") and "/run/checkpoints" in line


def test_a_file_where_a_folder_is_wanted_is_the_user_s_mistake(tmp_path):
  (tmp_path / "file").write_text("")

  def in_ours(path):  # As if this function stood in a module of ours.
    code = "import os, pathlib\nos.makedirs(path)\n"
    exec(compile(code, errors.__file__, "exec"), {"path": path})

  said = [
    errors.user_line(raised(lambda path=path: in_ours(path)))
    for path in (tmp_path / "file", tmp_path / "file" / "below")
  ]
  assert said == [
    f"{tmp_path}/file: File exists",
    f"{tmp_path}/file/below: Not a directory",
  ]
  assert errors.user_line(raised(lambda: json.load(open("/nonesuch")))) is None
