"""Finds the damaged record among the files of a task."""

import re
from collections.abc import Iterable

import tensorflow as tf

from t5x_lite.files.slow import announced


def describe(error: tf.errors.DataLossError, paths: Iterable[str]) -> str:
  """Returns a line that names the file and the record that cannot be read.

  TensorFlow says only the record's place, not its file: the files that are as
  long are read once more, up to the one that is damaged at this place.

  Args:
    error: the error of reading TFRecord files.
    paths: the files.
  """
  damage = re.search(r"(truncated|corrupted) record at (\d+)", str(error))
  if damage is None:
    return str(error).splitlines()[0]
  with announced("looking for the damaged file"):
    for path in paths:
      if tf.io.gfile.stat(path).length <= int(damage[2]):
        continue
      number = _damaged_record(path, damage[0])
      if number is not None:
        return (
          f"{path}, record {number} is damaged ({damage[0]}): restore the file "
          "from a copy"
        )
  return f"a file has a {damage[0]}"


def _damaged_record(path: str, damage: str) -> int | None:
  """Returns the number, from 1, of the record with this damage, or None."""
  number = 1
  try:
    for _ in tf.data.TFRecordDataset(path):
      number += 1
  except tf.errors.OpError as error:
    return number if damage in str(error) else None
  return None
