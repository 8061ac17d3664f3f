"""Files that several processes write or read at the same time."""

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
