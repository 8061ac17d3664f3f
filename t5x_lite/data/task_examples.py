"""Reads the examples of one task, from its source to the shuffle buffer.

It differs from `seqio.Task.get_dataset` in three ways. Seeds depend on the task
and the shard; with seqio's, two shards, or two tasks over one source, have the
same noise. Only features that rows use go through the shuffle buffer. And
nothing is cached in memory: buffer and cache are saved in each checkpoint.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import seqio
import tensorflow as tf

from t5x_lite.data import batch_iterator, task_cache, trimming
from t5x_lite.data.feature_converters import choose_targets
from t5x_lite.data.row_converter import plain
from t5x_lite.data.spec import Data
from t5x_lite.row_formats import RowFormat


def read(
  task: seqio.Task,
  spec: Data,
  lengths: Mapping[str, int],
  shard,
  *,
  row_format: RowFormat,
) -> tf.data.Dataset:
  """Returns a task's examples, trimmed and shuffled.

  Args:
    task: a task, not a mixture.
    spec: the data to read.
    lengths: the lengths of its features, as in `Reader.lengths`.
    shard: (index, count) of the part to read.
    row_format: the architecture's, which determines the targets.

  Returns:
    Dicts of int32 vectors, no longer than their lengths.

  Raises:
    ValueError: there are no examples, or they cannot be shuffled.
  """
  own_source = source(task, spec)
  ds = documents(task, spec, shard=shard)
  noise_seed = seed(spec, "noise", task.name, shard)
  once = ds
  if spec.cache_dir is None:
    once = task.preprocess_precache(ds, seed=noise_seed)

  sequence_length = {k: v for k, v in lengths.items() if k != "decoder"}

  def finish(ds):
    ds = task.preprocess_postcache(ds, sequence_length, seed=noise_seed)
    return fit(ds, task, lengths, row_format)

  if spec.num_epochs is None:
    with batch_iterator.plain_errors(task.name, lambda: paths(task, spec)):
      is_empty = not any(True for _ in finish(once).take(1))
    if is_empty:
      # Repeated forever, an empty dataset would hang without an error.
      raise ValueError(no_examples(spec, task.name, shard))
  # Repeated before random preprocessing, so that epochs have different noise.
  ds = finish(once if spec.num_epochs == 1 else once.repeat(spec.num_epochs))
  if spec.shuffle and task.shuffle_buffer_size:
    order_seed = seed(spec, "order", task.name, shard)
    # Complementary examples, which fill a row together, stay adjacent.
    together = getattr(task, "examples_together", 1)
    if together > 1:
      ds = ds.ragged_batch(together)
    buffer_size = max(1, task.shuffle_buffer_size // together)
    # The same order at each start: a stage's iterator may be discarded and made
    # again, when a position before the stage is restored.
    ds = ds.shuffle(
      buffer_size, seed=order_seed, reshuffle_each_iteration=False
    )
    if together > 1:
      # `map` turns the ragged tensors of rank 0 from `unbatch` into vectors.
      ds = ds.unbatch().map(plain(lambda example: example))
  elif spec.shuffle and not own_source.performs_internal_shuffling:
    raise ValueError(
      f"task {task.name} has shuffle_buffer_size None and cannot be shuffled: "
      "set shuffle=False, or the task's shuffle_buffer_size"
    )
  return ds


def source(task: seqio.Task, spec: Data) -> seqio.DataSource:
  """Returns the task's source or, with `cache_dir`, its offline cache."""
  if spec.cache_dir is None:
    return task.source
  return task_cache.source(task, spec.cache_dir, spec.split)


def text_of(task: seqio.Task, spec: Data) -> dict[str, str | Mapping[str, Any]]:
  """Returns what a task reads: {name: path}.

  A source of `tasks/` says it by `text_record(split)`, and has in place of a
  path what identifies text that is in no file. Of other sources it is their
  shards, which need not be files.
  """
  own_source = source(task, spec)
  describe = getattr(own_source, "text_record", None)
  if describe is not None:
    return dict(describe(spec.split))
  return {str(path): str(path) for path in own_source.list_shards(spec.split)}


def paths(task: seqio.Task, spec: Data) -> list[str]:
  """Returns the files that a task reads."""
  return [
    path
    for path in text_of(task, spec).values()
    if isinstance(path, str) and tf.io.gfile.exists(path)
  ]


def documents(
  task: seqio.Task, spec: Data, *, shard: tuple[int, int] = (0, 1)
) -> tf.data.Dataset:
  """Returns the documents of a task's source, in the order of reading.

  The order depends on the source, the split, `spec.seed` and
  `spec.document_order`, or the task's name if that is None.
  """
  index, count = shard
  own_source = source(task, spec)
  # One seed for all shards: each takes every count-th document of one order.
  options = {
    "split": spec.split,
    "shuffle": spec.shuffle,
    "seed": seed(spec, "source", spec.document_order or task.name),
  }
  if count == 1:
    return own_source.get_dataset(**options)
  if (
    own_source.supports_arbitrary_sharding
    or len(own_source.list_shards(spec.split)) >= count
  ):
    shard_info = seqio.ShardInfo(index=index, num_shards=count)
    return own_source.get_dataset(**options, shard_info=shard_info)
  return own_source.get_dataset(**options).shard(count, index)


def fit(
  ds: tf.data.Dataset,
  task: seqio.Task,
  lengths: Mapping[str, int],
  row_format: RowFormat,
) -> tf.data.Dataset:
  """Selects the features that have a length, and truncates them to it.

  If the task plans its lengths itself, a longer feature is not truncated (see
  trimming.py): it is a mistake in the plan, and an error.
  """
  missing = sorted(lengths.keys() - {"decoder"} - ds.element_spec.keys())
  if missing:
    raise ValueError(
      f"task {task.name} has output feature {missing[0]}, but its "
      f"preprocessors return {', '.join(sorted(ds.element_spec))}"
    )
  planned = any(
    # These two kinds only truncate.
    preprocessor is not seqio.preprocessors.append_eos_after_trim
    and not getattr(preprocessor, "only_trims", False)
    for preprocessor in length_preprocessors(task)
  )

  def refuse_longer(what, tokens, length):
    tf.debugging.Assert(
      tokens <= length,
      [f"{what} have", tokens, f"tokens, but their length is {length}"],
    )

  def fit_example(example):
    example = choose_targets(example, row_format)
    tokens = {
      name: tf.cast(example[name], tf.int32)
      for name in lengths
      if name != "decoder"
    }
    if planned:
      sizes = {name: tf.size(value) for name, value in tokens.items()}
      for name, size in sizes.items():
        refuse_longer(name, size, lengths[name])
      if "decoder" in lengths:
        together = sizes["inputs"] + sizes["targets"]
        refuse_longer("inputs and targets", together, lengths["decoder"])
      return tokens
    return trimming.fit(tokens, task.output_features, lengths)

  return ds.map(plain(fit_example), num_parallel_calls=tf.data.AUTOTUNE)


def length_preprocessors(task: seqio.Task) -> list[Callable]:
  """Returns a task's preprocessors that truncate to lengths or plan by them."""
  return [
    preprocessor
    for preprocessor in task.preprocessors
    if "sequence_length" in inspect.signature(preprocessor).parameters
  ]


def seed(spec: Data, *parts) -> int:
  """Returns a seed that, unlike Python's hash, is the same in every process."""
  digest = hashlib.sha256(json.dumps([spec.seed, *parts]).encode()).digest()
  return int.from_bytes(digest[:4]) >> 1


def no_examples(
  spec: Data, task: str = "", shard: tuple[int, int] = (0, 1)
) -> str:
  """Returns the error message for a task without examples."""
  where = f" (shard {shard[0]} of {shard[1]})" if shard[1] > 1 else ""
  return (
    f"task {task or spec.task}, split {spec.split!r}{where} has no examples: "
    "its files are empty, it has fewer examples than Data.num_streams, or "
    "its preprocessors drop all"
  )
