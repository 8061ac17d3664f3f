"""Reads the lines of a job's input, after it has checked all of them."""

import hashlib
import itertools
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from t5x_lite.files import disk, json_text, text_files
from t5x_lite.files.text_files import Record

_LINE = re.compile(r", line (\d+)")


class Input:
  """Holds a file whose lines suit a job, except those that are skipped.

  Attributes:
    path: the path of the file.
    num_records: the number of its texts, each counted once per sample.
    sha256: the digest of the texts' tokens and fields.
    bad: the messages of the lines that are skipped.
  """

  def __init__(
    self, path: str, job: Any, *, num_samples: int = 1, skip_bad: bool = False
  ):
    """Reads the whole file once.

    Args:
      path: JSON Lines, or plain text with one text per line; text_files.py
        detects which.
      job: encodes the records.
      num_samples: how often `records` yields each record.
      skip_bad: whether to skip lines that cannot be read or do not suit the
        job, rather than to raise the first one's error.

    Raises:
      ValueError: one line that names the file, its line and the problem.
    """
    if pathlib.Path(path).is_fifo():
      raise ValueError(
        f"{path} is a pipe, but must be read twice: write it to a file first"
      )
    self.path, self.bad = path, []
    self._num_samples = num_samples
    self._on_bad_line = self._skip if skip_bad else text_files.refuse
    self._bad_places, count, digest = set(), 0, hashlib.sha256()
    for record in text_files.read_records(path, self._on_bad_line):
      try:
        encoded = job.encode(record)
      except ValueError as error:
        self._on_bad_line(error)
        self._bad_places.add(record.place)
        continue
      count += 1
      digest.update(json.dumps(record.fields).encode())
      for ids in encoded.values():
        digest.update(len(ids).to_bytes(8, "little") + ids.tobytes())
    if not count:
      found = f"; the first of {len(self.bad)} bad lines: " if self.bad else ""
      raise ValueError(f"{path} has no texts{found}{''.join(self.bad[:1])}")
    self.num_records, self.sha256 = count * num_samples, digest.hexdigest()

  def records(self, first: int) -> Iterator[Record]:
    """Yields the records, each as often as there are samples, from one on."""
    records = (
      record
      for record in text_files.read_records(self.path, self._ignore)
      if record.place not in self._bad_places
      for _ in range(self._num_samples)
    )
    return itertools.islice(records, first, None)

  def write_bad(self, path: str) -> None:
    """Writes {"line": number, "error": message} of each skipped line."""
    lines = []
    for message in self.bad:
      number = _LINE.search(message)
      content = {"line": int(number[1]) if number else None, "error": message}
      lines.append(json_text.dumps(content, ensure_ascii=False) + "\n")
    disk.write_text(pathlib.Path(path), "".join(lines))

  def _skip(self, error: ValueError) -> None:
    # A file that cannot be read at all has no lines.
    if not _LINE.search(str(error)):
      raise error
    self.bad.append(str(error))

  def _ignore(self, error: ValueError) -> None:
    if not self.bad:  # The file has changed since it was checked.
      raise error
