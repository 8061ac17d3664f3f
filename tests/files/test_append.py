"""Records are appended whole, or not at all."""

import contextlib
import resource
import shutil

import pytest
from etils import epath
from etils.epath import backend

from t5x_lite.files import append, disk
from tests import stores

remote = stores.remote


@contextlib.contextmanager
def largest_file(size):
  """Lets no file grow beyond a size: a disk that gets full, for one file."""
  _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def path(tmp_path):
  return epath.Path(tmp_path) / "run" / "records.jsonl"


@pytest.fixture
def file(path):
  path.parent.mkdir()
  file = append.Appended(path)
  file.write("first\n")
  yield file
  file.close()


def test_a_full_disk_takes_no_part_of_a_record(file, path):
  with largest_file(9), pytest.raises(ValueError, match="cannot write .*recor"):
    file.write("second\n")
  assert path.read_text() == "first\n"
  file.write("third\n")
  assert path.read_text() == "first\nthird\n"


def test_a_file_that_is_removed_is_not_made_again(file, path):
  shutil.rmtree(path.parent)
  with pytest.raises(ValueError, match=r"records.jsonl was removed or repl"):
    file.write("second\n")
  assert not path.parent.exists()


def test_a_file_of_another_in_its_place_is_left_alone(file, path):
  path.unlink()
  path.write_text("another's\n")
  with pytest.raises(ValueError, match=r"records.jsonl was removed or repl"):
    file.write("second\n")
  assert path.read_text() == "another's\n"


def test_an_object_of_a_store_grows_as_a_file_does(remote):
  path = epath.Path("ram://append/run/records.jsonl")
  for text in ("first\n", "second\n"):  # It is opened anew, as on a resume.
    file = append.Appended(path)
    file.write(text)
    file.write("more\n")
    file.close()
  assert path.read_text() == "first\nmore\nsecond\nmore\n"
  file = append.Appended(path)
  path.unlink()
  with pytest.raises(ValueError, match=r"records.jsonl was removed or repl"):
    file.write("third\n")
  assert not path.exists()


def test_the_errors_of_a_stores_client_are_one_line(remote, monkeypatch):
  import tensorflow as tf

  def refuse(*args):
    raise tf.errors.PermissionDeniedError(None, None, "no such right\nat all")

  folder = epath.Path("ram://append/refused")
  file = append.Appended(folder / "records.jsonl")
  monkeypatch.setattr(type(backend.tf_backend), "open", refuse)
  with pytest.raises(ValueError, match="cannot write .*jsonl: no such right; "):
    file.write("first\n")
  with pytest.raises(ValueError, match="ram://append/refused: no such right; "):
    disk.check_writable(folder)
