"""Serves JSON lines with all their fields: text, numbers and lists of them."""

from __future__ import annotations

import gzip
import json
import pathlib
from collections.abc import Iterator, Mapping

from tasks import sources


class JsonRows(sources.LazySource):
  """Reads split -> file (.jsonl or .jsonl.gz) into memory.

  The names of nested fields are joined: {"idx": {"query": 3}} is "idx/query".
  """

  def __init__(self, name: str, files: Mapping[str, str]):
    super().__init__(name, tuple(files))
    self._files = dict(files)

  def recipe(self) -> tuple:
    return tuple(self._files.items())

  def make(self) -> sources.MemorySource:
    return sources.MemorySource(
      self.name, {split: _columns(path) for split, path in self._files.items()}
    )


def _columns(path: str) -> dict[str, list]:
  rows = list(_rows(path))
  if not rows:
    raise ValueError(f"{path} has no rows")
  fields = {key: None for row in rows for key in row}
  lacking = [key for key in fields if any(key not in row for row in rows)]
  if lacking:
    raise ValueError(f"{path}: some rows lack {', '.join(lacking)}")
  return {key: [row[key] for row in rows] for key in fields}


def _rows(path: str) -> Iterator[dict]:
  open_file = gzip.open if path.endswith(".gz") else open
  try:
    with open_file(path, "rt", encoding="utf-8") as file:
      for line in file:
        if line.strip():
          yield _flat(json.loads(line))
  except json.JSONDecodeError as error:
    raise ValueError(f"{path}: no JSON: {error} in {line[:40]!r}") from None
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f"cannot read {path}: {error}") from None


def _flat(row: Mapping, prefix: str = "") -> dict:
  flat = {}
  for key, value in row.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f"{prefix}{key}/")
    elif value is not None:
      flat[prefix + key] = value
  return flat


def find(folder: str, task: str) -> dict[str, str]:
  """Returns split -> file of FOLDER/TASK/SPLIT.jsonl or .jsonl.gz.

  Raises:
    ValueError: there is none.
  """
  paths = sorted(pathlib.Path(folder, task).glob("*.jsonl*"))
  if not paths:
    raise ValueError(
      f"no {folder}/{task}/SPLIT.jsonl (or .jsonl.gz) for benchmark {task}"
    )
  return {path.name.split(".")[0]: str(path) for path in paths}
