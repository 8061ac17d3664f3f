"""Records the files that a run reads, and compares them when it resumes.

RUN/text.json has a fingerprint of each file: its size, and a digest of its
first and last block and of some between; of a remote object, which is not
opened, its size and time. A position in a stream means the same examples only
while the text is the same.
"""

import concurrent.futures
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import tensorflow as tf
from etils import epath

from t5x_lite.data import task_examples
from t5x_lite.data.reader import Reader
from t5x_lite.files import disk, json_text, trees

_FILE = "text.json"
# A file up to their size is read whole.
_BLOCKS, _BLOCK_BYTES = 16, 1 << 16
_THREADS = 32
_LISTED = 3

Fingerprint = dict[str, Any]
# {"TASK, SPLIT": {name of a file: its fingerprint}}
Record = dict[str, dict[str, Fingerprint]]


def take(readers: Sequence[Reader]) -> Record:
  """Returns the fingerprints of what some readers read."""
  record = {}
  for reader in readers:
    for stage in reader.stages:
      spec = stage.spec
      for task in stage.task.parts:
        if spec.split in task.splits:
          text = task_examples.text_of(task, spec)
          record[f"{task.name}, {spec.split}"] = _fingerprints(text)
  return record


def check(record: Record, model_dir: str, *, allow: bool = False) -> None:
  """Checks that the text of a run is what it was at its last start.

  Files of tasks that the run has not read before are not compared.

  Args:
    record: the fingerprints now.
    model_dir: the run's directory.
    allow: go on with what has changed.

  Raises:
    ValueError: a file has changed, is missing or is new; names the first ones.
  """
  path = epath.Path(model_dir) / _FILE
  if allow or not path.exists():
    return
  before = json_text.read(
    path, remedy="restore it from a copy, or delete it: train writes it anew"
  )
  changes = [
    f"{name} {change}"
    for task in sorted(record.keys() & before.keys())
    for name, change in _changes(before[task], record[task])
  ]
  if changes:
    changes = list(dict.fromkeys(changes))  # Tasks may share files.
    raise ValueError(
      f"the text of the run in {model_dir} has changed since its last start: "
      f"{trees.listed(changes, _LISTED, '; ')}. Restore it, or go on with "
      "other examples by train --allow_changed_data (allow_changed_data=True)"
    )


def write(record: Record, model_dir: str) -> None:
  """Writes the fingerprints to a run's directory, from process 0."""
  if jax.process_index() == 0:
    text = json_text.dumps(record, indent=1) + "\n"
    disk.write_text(epath.Path(model_dir) / _FILE, text)


def fingerprint(path: str) -> Fingerprint | None:
  """Returns a file's fingerprint; None if there is no such file."""
  try:
    stat = tf.io.gfile.stat(path)
  except tf.errors.OpError:
    return None
  if stat.is_directory:
    return None
  if "://" in path:
    return {"bytes": stat.length, "time_ns": stat.mtime_nsec}
  crc = 0
  with open(path, "rb") as file:
    if stat.length <= _BLOCKS * _BLOCK_BYTES:
      crc = zlib.crc32(file.read())
    else:
      last = stat.length - _BLOCK_BYTES
      for i in range(_BLOCKS):
        file.seek(i * last // (_BLOCKS - 1))
        crc = zlib.crc32(file.read(_BLOCK_BYTES), crc)
  return {"bytes": stat.length, "digest": f"{crc:08x}"}


def _fingerprints(text: Mapping[str, Any]) -> dict[str, Fingerprint]:
  """Returns the fingerprint of each file, and those that are given."""
  paths = {name: path for name, path in text.items() if isinstance(path, str)}
  # Many files on a network: their round trips overlap.
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    taken = zip(paths, pool.map(fingerprint, paths.values()), strict=True)
    found = {**text, **dict(taken)}
  return {name: value for name, value in found.items() if value is not None}


def _changes(
  before: Mapping[str, Fingerprint], now: Mapping[str, Fingerprint]
) -> list[tuple[str, str]]:
  """Returns (name, what has changed) for each file that differs."""
  changes = []
  for name in sorted(before.keys() | now.keys()):
    old, new = before.get(name), now.get(name)
    if old == new:
      continue
    if new is None:
      change = "is missing"
    elif old is None:
      change = "is new"
    elif old["bytes"] != new["bytes"]:
      change = f"had {old['bytes']:,} bytes and has {new['bytes']:,}"
    else:
      change = "has other contents"
    changes.append((name, change))
  return changes
