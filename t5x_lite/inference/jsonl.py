"""Writes results as JSON Lines, so that an interrupted job can continue."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from t5x_lite.files import append, disk, json_text, lock


class Output:
  """Appends to a JSONL file that a rerun of the same job continues.

  Complete lines are appended, a batch at a time. A partial line, left by an
  interruption, is removed when the file is opened again. `PATH.job.json` next
  to it identifies the job: another job's file is refused, not overwritten.

  Attributes:
    num_lines: the number of complete lines in the file.
  """

  def __init__(self, path: str, job: Mapping[str, Any]):
    """Opens or creates the file.

    Args:
      path: the path of a local file.
      job: what determines the lines (input, model, settings), as JSON values.

    Raises:
      ValueError: the file is another job's, in use, or cannot be written.
    """
    self.path = str(path)
    self._job_path = f"{self.path}.job.json"
    self._fd, self._lock = None, contextlib.ExitStack()
    self._warned = set()
    job = json.loads(json_text.dumps(job))
    try:
      self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
      self._lock.enter_context(lock.exclusive(f"{self.path}.lock"))
      self._claim(job)
      self.num_lines = self._remove_partial_line()
    except lock.Held as other:
      self.close()
      raise ValueError(
        f"{self.path} is being written by {other.holder}: wait for its end, or "
        "choose another output"
      ) from None
    except OSError as e:
      self.close()
      raise ValueError(f"cannot write {self.path}: {e.strerror or e}") from None
    except ValueError:
      self.close()
      raise

  def append(self, records: Iterable[Mapping[str, Any]]) -> None:
    """Appends one line per record: all of them or, if that fails, none."""
    lines = []
    for number, record in enumerate(records, start=self.num_lines + 1):
      self._warn(record, number)
      lines.append(json_text.dumps(record, ensure_ascii=False) + "\n")
    data = "".join(lines).encode()
    try:
      append.append(self._fd, data)
    except OSError as e:
      raise ValueError(
        f"cannot write {self.path}: {e.strerror or e}; its {self.num_lines} "
        "lines are complete, and the same command continues after them"
      ) from None
    self.num_lines += len(lines)

  def close(self) -> None:
    if self._fd is not None:
      os.close(self._fd)
      self._fd = None
    self._lock.close()

  def __enter__(self) -> "Output":
    return self

  def __exit__(self, *exc_info) -> None:
    self.close()

  def _warn(self, record, number):
    """Warns of numbers that are written as null, once per field."""
    found = json_text.not_finite(record)
    new = {name: x for name, x in found.items() if name not in self._warned}
    self._warned |= new.keys()
    json_text.warn(new, f"{self.path}, from line {number}")

  def _claim(self, job):
    """Checks that the file is this job's, or marks a new one as such."""
    if os.fstat(self._fd).st_size:
      try:
        with open(self._job_path, encoding="utf-8") as f:
          theirs = json.load(f)
      except (OSError, ValueError):
        raise ValueError(
          f"{self.path} exists and was not written by this command: remove it "
          "or choose another output"
        ) from None
      if theirs != job:
        names = sorted(job.keys() | theirs.keys())
        changed = ", ".join(
          f"{name} (was {_short(theirs.get(name))}, is {_short(job.get(name))})"
          for name in names
          if theirs.get(name) != job.get(name)
        )
        raise ValueError(
          f"{self.path} was written with a different {changed}: remove it or "
          "choose another output"
        )
      return
    text = json_text.dumps(job, indent=1, ensure_ascii=False)
    disk.write_text(pathlib.Path(self._job_path), f"{text}\n")

  def _remove_partial_line(self):
    """Removes a partial last line; returns the number of complete lines."""
    num_lines = complete = position = 0
    with open(self.path, "rb") as f:
      while block := f.read(1 << 20):
        num_lines += block.count(b"\n")
        if (last := block.rfind(b"\n")) >= 0:
          complete = position + last + 1
        position += len(block)
    os.ftruncate(self._fd, complete)
    return num_lines


def _short(value):
  text = str(value)
  return text if len(text) <= 24 else f"{text[:20]}..."
