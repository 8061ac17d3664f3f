"""Writes seqio's offline cache of a task, on one machine and without Beam.

  source -> preprocessors before CacheDatasetPlaceholder -> DIR/TASK/*.tfrecord
  DIR/TASK -> preprocessors after it -> examples

The format is that of seqio's `cache_tasks_main`: each can read the files of the
other.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite.files import json_text, lock
from t5x_lite.files.slow import announced


def write(
  task: seqio.Task,
  cache_dir: str,
  *,
  num_shards: int = 16,
  report: Callable[[str], None] = print,
) -> str:
  """Writes all splits of a task, or none if one fails.

  Args:
    task: a task with a CacheDatasetPlaceholder among its preprocessors.
    cache_dir: the folder of all caches, as in `data.Data.cache_dir`.
    num_shards: the files per split; at least one per process that will read it.
    report: is called with a line of text for each split.

  Returns:
    The folder of the task's cache.

  Raises:
    ValueError: the task cannot be cached, is cached already, or has an empty
      split.
  """
  folder = folder_of(task.name, cache_dir)
  if not task.supports_caching:
    raise ValueError(
      f"task {task.name} cannot be cached: it has no "
      "seqio.CacheDatasetPlaceholder() among its preprocessors"
    )
  if num_shards < 1:
    raise ValueError(f"num_shards ({num_shards}) must be at least 1")
  os.makedirs(os.path.dirname(folder), exist_ok=True)
  with lock.exclusive(f"{folder}.lock"):
    _write(task, folder, num_shards, report)
  return folder


def _write(task, folder: str, num_shards: int, report) -> None:
  if os.path.exists(folder):
    raise ValueError(f"task {task.name} is cached in {folder} already")
  partial = f"{folder}.partial"
  shutil.rmtree(partial, ignore_errors=True)  # Of a process that was killed.
  os.makedirs(partial)
  try:
    for split in task.splits:
      count = _write_split(task, split, partial, num_shards)
      report(f"{task.name}, split {split}: {count:,} examples")
    with open(os.path.join(partial, "COMPLETED"), "w"):
      pass
    os.rename(partial, folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def folder_of(task_name: str, cache_dir: str) -> str:
  """Returns the folder of a task's cache."""
  name = seqio.utils.get_task_dir_from_name(task_name)
  return os.path.join(os.path.expanduser(cache_dir), name)


def source(task: seqio.Task, cache_dir: str, split: str) -> seqio.DataSource:
  """Returns the source of cached examples.

  Raises:
    ValueError: the folder has no cache of the task.
  """
  folder = folder_of(task.name, cache_dir)
  if not tf.io.gfile.exists(os.path.join(folder, "COMPLETED")):
    raise ValueError(
      f"task {task.name} has no cache in {cache_dir}: write it by "
      f"`t5x_lite cache {task.name} --cache_dir={cache_dir}`"
    )
  return seqio.dataset_providers._CachedDataSource(folder, split)


def _write_split(task, split: str, folder: str, num_shards: int) -> int:
  prefix = seqio.utils.get_cached_tfrecord_prefix(folder, split)
  # In the source's order: the cache is shuffled when it is read.
  dataset = task.source.get_dataset(split=split, shuffle=False)
  examples = task.preprocess_precache(dataset, seed=None).as_numpy_iterator()
  count, info = 0, {}
  with contextlib.ExitStack() as stack:
    stack.enter_context(
      announced(
        f"caching {task.name}, split {split}",
        detail=lambda: f"{count:,} examples",
      )
    )
    writers = [
      stack.enter_context(
        tf.io.TFRecordWriter(f"{prefix}-{i:05d}-of-{num_shards:05d}")
      )
      for i in range(num_shards)
    ]
    for count, example in enumerate(examples, start=1):
      info = info or _features(example)
      record = seqio.utils.dict_to_tfexample(example)
      writers[count % num_shards].write(record.SerializeToString())
  if not count:
    raise ValueError(f"task {task.name}, split {split!r} has no examples")
  info = {
    "num_shards": num_shards,
    "features": info,
    "seqio_version": seqio.__version__,
  }
  for path, content in (
    (seqio.utils.get_cached_info_path(folder, split), info),
    (seqio.utils.get_cached_stats_path(folder, split), {"examples": count}),
  ):
    with open(path, "w") as file:
      file.write(json_text.dumps(content))
  return count


def _features(example: Mapping[str, Any]) -> dict[str, dict]:
  """Returns the dtype and shape of each feature; the first dim is variable."""
  features = {}
  for name, value in example.items():
    shape = list(np.shape(value))
    features[name] = {
      "shape": [None, *shape[1:]] if shape else [],
      "dtype": tf.constant(value).dtype.name,
    }
  return features
