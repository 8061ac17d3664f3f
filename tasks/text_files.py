"""Reads a user's text: .txt, .txt.gz, .jsonl and .jsonl.gz files and globs.

Paths with a scheme (gs://, s3://, ...) go through TensorFlow's file systems.
Every fault is one ValueError that names the file, and the byte or the line.
"""

from __future__ import annotations

import glob
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence

import tensorflow as tf

DOCUMENTS = ("blank_line", "line", "file")


def expand(files: str | Sequence[str]) -> list[str]:
  """Returns the files that paths and globs stand for, sorted, each once.

  Raises:
    ValueError: a path or a glob stands for no file.
  """
  patterns = [files] if isinstance(files, str) else list(files)
  if not patterns:
    raise ValueError("no text file is given: state files")
  paths = set()
  for pattern in patterns:
    pattern = os.path.expanduser(pattern)
    # A file may have a bracket in its name.
    if tf.io.gfile.exists(pattern):
      found = [pattern]
    elif glob.has_magic(pattern):
      found = tf.io.gfile.glob(pattern)
    else:
      raise ValueError(f"no such text file: {pattern!r}")
    found = [path for path in found if not tf.io.gfile.isdir(path)]
    if not found:
      raise ValueError(
        f"no text file in {pattern!r}: name files, or a glob such as "
        f"{os.path.join(pattern.rstrip('/'), '*.txt')!r}"
        if tf.io.gfile.isdir(pattern)
        else f"no text file matches {pattern!r}"
      )
    paths.update(found)
  return sorted(paths)


def read(
  files: Iterable[str], *, field: str = "text", documents: str = "blank_line"
) -> Iterator[str]:
  """Yields documents in the order of the files, one at a time.

  Args:
    files: paths, as from `expand`.
    field: the text's name in the objects of a .jsonl file, one document each.
    documents: how a text file is divided: at blank lines ("blank_line"), at
      every line ("line") or not at all ("file").

  Raises:
    ValueError: a file is unreadable, not UTF-8, not JSON, or has no text.
  """
  if documents not in DOCUMENTS:
    raise ValueError(
      f"documents ({documents!r}) must be one of "
      f"{', '.join(map(repr, DOCUMENTS))}"
    )
  for path in files:
    lines = _lines(path)
    is_json = path.removesuffix(".gz").endswith((".jsonl", ".ndjson"))
    texts = (
      _json_texts(path, lines, field) if is_json else _split(lines, documents)
    )
    has_text = False
    for text in texts:
      if text.strip():
        has_text = True
        yield text
    if not has_text:
      raise ValueError(f"text file {path!r} is empty")


def _lines(path: str) -> Iterator[str]:
  """Yields a file's lines without their ends ("\\n", "\\r\\n")."""
  remote = "://" in path
  position = 0
  try:
    with tf.io.gfile.GFile(path, "rb") if remote else open(path, "rb") as raw:
      file = gzip.GzipFile(fileobj=raw) if path.endswith(".gz") else raw
      for line in file:
        try:
          text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
          raise ValueError(
            f"text file {path!r} is not UTF-8: byte {position + error.start} "
            f"is 0x{line[error.start]:02x} ({error.reason})"
          ) from None
        # A byte order mark, from editors on Windows.
        yield text if position else text.removeprefix("\ufeff")
        position += len(line)
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise ValueError(
      f"text file {path!r} is not a whole gzip file: {error}"
    ) from None
  except (OSError, tf.errors.OpError) as error:
    reason = getattr(error, "strerror", None) or getattr(
      error, "message", error
    )
    raise ValueError(f"cannot read text file {path!r}: {reason}") from None


def _split(lines: Iterable[str], documents: str) -> Iterator[str]:
  if documents == "line":
    yield from lines
  elif documents == "file":
    yield "\n".join(lines).strip("\n")
  else:
    paragraph = []
    for line in lines:
      if line.strip():
        paragraph.append(line)
      elif paragraph:
        yield "\n".join(paragraph)
        paragraph = []
    yield "\n".join(paragraph)


def _json_texts(path: str, lines: Iterable[str], field: str) -> Iterator[str]:
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    place = f"line {number} of {path!r}"
    try:
      record = json.loads(line)
    except ValueError as error:
      raise ValueError(f"{place} is not JSON: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get(field), str):
      has = sorted(record) if isinstance(record, dict) else type(record)
      raise ValueError(f"{place} has no text in field {field!r}; it has {has}")
    yield record[field]
