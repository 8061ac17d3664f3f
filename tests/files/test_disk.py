"""Files that several processes write or read at the same time."""

import ast
import pathlib
import threading

import pytest
from etils import epath

from t5x_lite.files import disk


def test_readers_see_the_old_file_or_the_whole_new_one(tmp_path):
  path = epath.Path(tmp_path) / "record.json"
  texts = ["a" * 500_000, "b" * 600_000]
  disk.write_text(path, texts[0])
  done = threading.Event()

  def write():
    for i in range(100):
      disk.write_text(path, texts[i % 2])
    done.set()

  writer = threading.Thread(target=write)
  writer.start()
  while not done.is_set():
    assert path.read_text() in texts
  writer.join()
  assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


def test_two_writers_of_one_file_are_kept_apart(tmp_path):
  path = epath.Path(tmp_path) / "model"
  with disk.partial(path) as one, disk.partial(path) as other:
    one.write_text("one")
    other.write_text("other")
  assert path.read_text() == "one"
  assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_block_that_raises_leaves_the_old_file(tmp_path):
  path = epath.Path(tmp_path) / "model"
  disk.write_text(path, "old")
  with pytest.raises(ZeroDivisionError), disk.partial(path) as temporary:
    temporary.write_text("new")
    raise ZeroDivisionError
  assert path.read_text() == "old"
  assert [file.name for file in tmp_path.iterdir()] == ["model"]


# Written in a folder that is renamed as a whole, or not a result.
_IN_A_FOLDER = (
  "t5x_lite/files/disk.py", "t5x_lite/checkpoints/digests.py",
  "t5x_lite/checkpoints/saved_step.py", "t5x_lite/data/batch_iterator.py",
  "t5x_lite/data/task_cache.py", "launch/arms.py", "launch/new_run.py",
)  # fmt: skip
_WRITERS = ("write_text", "write_bytes", "copyfile", "save_file", "savefig")


def test_every_file_is_written_under_another_name_first():
  root = pathlib.Path(disk.__file__).parents[2]
  checked = 0
  for folder in ("t5x_lite", "launch"):
    for path in (root / folder).rglob("*.py"):
      if path.relative_to(root).as_posix() in _IN_A_FOLDER:
        continue
      for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
          continue
        name = ast.unparse(node.func).rpartition(".")[2]
        text = ast.unparse(node)
        if name in _WRITERS:
          checked += 1
          safe = ("disk.write_text", "temporary", "buffer")
          assert any(word in text for word in safe), (path, text)
        if name in ("open", "GFile", "NamedTemporaryFile"):
          inside = "interval.json" in text  # In a checkpoint's folder.
          safe = inside or "temporary" in text or "'w" not in text
          assert safe, (path, text)
  assert checked > 15


def test_texts_are_utf8_whatever_the_locale(tmp_path):
  path = epath.Path(tmp_path) / "texts.jsonl"
  disk.write_text(path, "\u00e9 \u732b")
  assert path.read_bytes() == b"\xc3\xa9 \xe7\x8c\xab"
