"""Reads JSON Lines as a seqio source: fields of text, numbers and lists."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import tensorflow as tf
from etils import epath

from t5x_lite.files import text_files
from tasks import sources
from tasks.text_to_text import flatten


class JsonRows(sources.LazySource):
  """Serves the JSON Lines file of each split from memory.

  Files may be compressed. The names of nested fields are joined: {"idx":
  {"query": 3}} is "idx/query". A null field counts as missing. A split is read
  and checked when it is first used, so a split without labels does not affect
  the others.
  """

  def __init__(
    self,
    name: str,
    files: Mapping[str, str],
    read_row: Callable[[Mapping], dict] | None = None,
  ):
    """Creates the source.

    Args:
      name: the name of the source.
      files: {split: path}.
      read_row: maps and checks a row; see `Benchmark.read_row`.
    """
    super().__init__(name, tuple(files))
    self._files = dict(files)
    self._read_row = read_row
    self._of_split = functools.cache(self._of_split)

  def recipe(self) -> tuple:
    return (*self._files.items(), self._read_row)

  def make(self) -> sources.MemorySource:
    return sources.MemorySource(
      self.name,
      {split: self._of_split(split).columns[split] for split in self._files},
    )

  def _of_split(self, split: str) -> sources.MemorySource:
    columns = _columns(self._files[split], self._read_row)
    return sources.MemorySource(self.name, {split: columns})

  def list_shards(self, split: str) -> list[str]:
    return self._of_split(split).list_shards(split)

  def num_input_examples(self, split: str) -> int:
    return self._of_split(split).num_input_examples(split)

  def get_dataset(self, split: str = "train", **options) -> tf.data.Dataset:
    return self._of_split(split).get_dataset(split, **options)


def _columns(
  path: str, read_row: Callable[[Mapping], dict] | None
) -> dict[str, list]:
  rows, kinds = [], {}
  for place, fields in text_files.read_rows(path):
    row = {k: v for k, v in flatten(fields).items() if v is not None}
    if read_row is not None:
      try:
        row = read_row(row)
      except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    for key, value in row.items():
      kind = _kind(value)
      before = kinds.get(key, kind)
      # The kind of an empty list is "lists of ".
      if not kind or not (kind.startswith(before) or before.startswith(kind)):
        raise ValueError(
          f"{place}: field {key!r} is {value!r:.40}: a field must have one "
          "type in all rows: text, numbers, true and false, or lists of one "
          "of these"
        )
      kinds[key] = max(before, kind, key=len)
    rows.append(row)
  if not rows:
    raise ValueError(f"{path} has no rows")
  lacking = [key for key in kinds if any(key not in row for row in rows)]
  if lacking:
    raise ValueError(f"{path}: some rows have no {', '.join(lacking)}")
  return {key: [row[key] for row in rows] for key in kinds}


def _kind(value) -> str | None:
  """Returns the type of a field's value, or None if it is not supported."""
  if isinstance(value, str):
    return "text"
  if isinstance(value, bool):
    return "true and false"
  if isinstance(value, float) or (
    isinstance(value, int) and -(2**63) <= value < 2**63
  ):
    return "numbers"
  if isinstance(value, list):
    kinds = set(map(_kind, value))
    if len(kinds) <= 1 and kinds <= {"text", "numbers", "true and false"}:
      return f"lists of {''.join(kinds)}"
  return None


def find(folder: str, task: str) -> dict[str, str]:
  """Returns {split: path} for the files FOLDER/TASK/SPLIT.* of a task.

  Raises:
    ValueError: there is no file, or there are two for one split.
  """
  home = epath.Path(folder).expanduser() / task
  paths = sorted(home.iterdir()) if home.is_dir() else []
  files = {}
  for path in paths:
    split = path.name.split(".")[0]
    if not split or path.is_dir():  # Hidden files are ignored.
      continue
    if split in files:
      raise ValueError(
        f"{files[split]} and {path} are both split {split!r} of benchmark "
        f"{task}: keep one"
      )
    files[split] = str(path)
  if not files:
    raise ValueError(f"no {home}/SPLIT.jsonl for benchmark {task}")
  return files
