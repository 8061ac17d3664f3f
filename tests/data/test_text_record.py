"""Text that has changed since a run's last start is named, file by file."""

import os
import shutil

import pytest
import seqio

from t5x_lite import row_formats
from t5x_lite.data import Data, text_record
from t5x_lite.data.reader import Reader
from tests.data.streams import LENGTHS

LARGE = 3 * 10**6


@pytest.fixture
def reader(tmp_path):
  """A reader of a small file and of one too large to be read whole."""
  (tmp_path / "small.txt").write_text("one\ntwo\n")
  (tmp_path / "large.txt").write_bytes(b"line\n" * (LARGE // 5))
  feature = seqio.Feature(seqio.ByteVocabulary())
  seqio.TaskRegistry.add(
    "of_files",
    source=seqio.TextLineDataSource({"train": f"{tmp_path}/*.txt"}),
    output_features={"inputs": feature, "targets": feature},
    preprocessors=[],
  )
  spec = Data(task="of_files", lengths=LENGTHS, batch_size=4)
  yield Reader(spec, row_formats.ENCODER_DECODER)
  seqio.TaskRegistry.remove("of_files")


def edit(path, at, text):
  with path.open("r+b") as file:
    file.seek(at)
    file.write(text)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda f: edit(f / "small.txt", 2, b"E"), "small.txt has other contents"),
    (lambda f: edit(f / "large.txt", 0, b"L"), "large.txt has other contents"),
    (lambda f: edit(f / "large.txt", LARGE - 2, b"E"), "large.txt has other"),
    (
      lambda f: os.truncate(f / "large.txt", 5),
      "large.txt had 3,000,000 bytes and has 5",
    ),
    (lambda f: (f / "small.txt").unlink(), "small.txt is missing"),
  ],
)
def test_a_change_is_named_and_can_be_allowed(
  reader, tmp_path, change, message
):
  run = str(tmp_path / "run")
  os.mkdir(run)
  text_record.write(text_record.take([reader]), run)
  change(tmp_path)
  now = text_record.take([reader])
  with pytest.raises(ValueError, match=message) as error:
    text_record.check(now, run)
  assert "--allow_changed_data" in str(error.value)
  assert str(error.value).count(".txt") == 1
  text_record.check(now, run, allow=True)
  text_record.write(now, run)
  text_record.check(now, run)


def test_another_time_and_another_task_are_no_change(reader, tmp_path):
  run = str(tmp_path / "run")
  os.mkdir(run)
  text_record.check(text_record.take([reader]), run)  # There is no record yet.
  text_record.write({"other, train": {"a": {"bytes": 1}}}, run)
  text_record.check(text_record.take([reader]), run)
  text_record.write(text_record.take([reader]), run)
  for name in ("small.txt", "large.txt"):
    copy = tmp_path / "copy"
    shutil.copyfile(tmp_path / name, copy)
    os.utime(copy, (1, 1))
    copy.rename(tmp_path / name)
  text_record.check(text_record.take([reader]), run)


def test_of_many_changes_the_first_are_named(tmp_path):
  now = {"a, train": {f"{i}.txt": {"bytes": i} for i in range(9)}}
  text_record.write({"a, train": {}}, str(tmp_path))
  with pytest.raises(ValueError, match="0.txt is new; 1.txt .*; and 6 more. "):
    text_record.check(now, str(tmp_path))


def test_a_remote_object_is_known_by_size_and_time(monkeypatch):
  class Stat:
    length, mtime_nsec, is_directory = 7, 5, False

  monkeypatch.setattr(text_record.tf.io.gfile, "stat", lambda path: Stat)
  # Not opened: a read of a few bytes would fetch megabytes.
  assert text_record.fingerprint("gs://bucket/a.txt") == {
    "bytes": 7,
    "time_ns": 5,
  }
