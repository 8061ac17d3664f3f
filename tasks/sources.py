"""Serves examples from memory or record files, with TensorFlow ops only.

seqio can make a source from a Python generator, but its iterators cannot be
checkpointed. Here all Python code runs once, before the first example.
"""

from __future__ import annotations

import abc
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf
from absl import logging

from tasks import cache

SPLITS = ("train", "validation")
# Up to this size a source is held in memory; a larger one uses record files.
MEMORY_BYTES = 256 * 1024**2
_NUM_FILES = 64

Example = Mapping[str, str | int | float | bool]


class MemorySource(seqio.DataSource):
  """Serves columns from memory, fully shuffled in each epoch.

  Shard i of n has the examples i, i + n, ..., for any seed. An iterator
  checkpoint stores a list of indices, not the text.
  """

  def __init__(self, name: str, columns: Mapping[str, Mapping[str, Sequence]]):
    """Creates the source from columns: {split: {feature: values}}."""
    super().__init__(splits=columns)
    self.name = name
    self.columns = columns

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    return [f"{self.name}/{split}"]

  def num_input_examples(self, split: str) -> int:
    return max(map(len, self.columns[split].values()), default=0)

  def text_record(self, split: str) -> dict[str, dict]:
    """Returns what identifies the text, for t5x_lite/data/text_record.py."""
    parts = []
    for key, values in self.columns[split].items():
      parts += [key, *map(repr, values)]
    record = {"bytes": sum(map(len, parts)), "digest": cache.digest(parts)}
    return {f"{self.name}/{split}": record}

  def __repr__(self) -> str:
    return f"MemorySource({self.name!r})"

  def training_text(self, limit_bytes: int) -> Iterator[str]:
    """Yields up to `limit_bytes` of training text, to train a vocabulary.

    Texts are sorted by a hash, so this is a random sample.
    """
    texts = sorted(self.columns["train"]["text"], key=cache.unit_interval)
    return _take(texts, limit_bytes)

  def get_dataset(
    self,
    split: str = "train",
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused_options,
  ) -> tf.data.Dataset:
    size = self.num_input_examples(split)
    num_shards = _num_shards(self, split, shard_info)
    indices = tf.data.Dataset.range(size)
    if num_shards > 1:
      indices = indices.shard(num_shards, shard_info.index)
    if shuffle:
      indices = indices.shuffle(size, seed=seed)
    tensors = {
      key: _tensor(list(values)) for key, values in self.columns[split].items()
    }
    return indices.map(
      lambda i: {key: tensor[i] for key, tensor in tensors.items()}
    )


class RecordSource(seqio.DataSource):
  """Serves the record files written by `write_records`.

  Each epoch shuffles the files and interleaves 16 of them. Examples were
  assigned to files at random.
  """

  def __init__(self, name: str, folder: str | os.PathLike):
    self.name = name
    self._folder = pathlib.Path(folder)
    self._index = json.loads((self._folder / "index.json").read_text())
    sizes = {
      split: sum(counts) for split, counts in self._index["sizes"].items()
    }
    super().__init__(splits=sizes, num_input_examples=sizes)

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    return [
      str(self._folder / _record_name(split, number))
      for number, size in enumerate(self._index["sizes"][split])
      if size
    ]

  def text_record(self, split: str) -> dict[str, str]:
    """Returns the record files by name, for t5x_lite/data/text_record.py."""
    paths = map(pathlib.Path, self.list_shards(split))
    return {f"{self._folder.name}/{path.name}": str(path) for path in paths}

  def training_text(self, limit_bytes: int) -> Iterator[str]:
    """Yields up to `limit_bytes` of training text, a random sample."""
    dataset = self.get_dataset("train", shuffle=False)
    examples = dataset.as_numpy_iterator()
    return _take((row["text"].decode() for row in examples), limit_bytes)

  def get_dataset(
    self,
    split: str = "train",
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused_options,
  ) -> tf.data.Dataset:
    names = self.list_shards(split)
    num_shards = _num_shards(self, split, shard_info)
    by_file = len(names) >= num_shards
    files = tf.data.Dataset.from_tensor_slices(names)
    if num_shards > 1 and by_file:
      files = files.shard(num_shards, shard_info.index)
    if shuffle:
      files = files.shuffle(len(names), seed=seed)
    dataset = files.interleave(
      tf.data.TFRecordDataset,
      cycle_length=16,
      num_parallel_calls=tf.data.AUTOTUNE,
      deterministic=True,
    )
    if num_shards > 1 and not by_file:
      dataset = dataset.shard(num_shards, shard_info.index)
    features = {
      key: tf.io.FixedLenFeature([], dtype)
      for key, dtype in self._index["dtypes"].items()
    }
    return dataset.map(
      lambda record: tf.io.parse_single_example(record, features)
    )


class LazySource(seqio.DataSource):
  """Creates its source on first use, so that registering a task is cheap."""

  def __init__(self, name: str, splits: Sequence[str] = SPLITS):
    super().__init__(splits=splits)
    self.name = name

  @abc.abstractmethod
  def make(self) -> MemorySource | RecordSource:
    """Reads the examples into memory or record files."""

  def recipe(self) -> tuple:
    """Returns the settings that determine the contents, to compare sources."""
    return (self.name,)

  @functools.cached_property
  def made(self) -> MemorySource | RecordSource:
    return self.make()

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    return self.made.list_shards(split)

  def num_input_examples(self, split: str) -> int:
    return self.made.num_input_examples(split)

  def text_record(self, split: str) -> Mapping[str, object]:
    """Returns the text files by name, or what identifies their text."""
    return self.made.text_record(split)

  def training_text(self, limit_bytes: int) -> Iterator[str]:
    return self.made.training_text(limit_bytes)

  def get_dataset(self, *args, **options) -> tf.data.Dataset:
    return self.made.get_dataset(*args, **options)

  def __eq__(self, other) -> bool:
    return type(self) is type(other) and self.recipe() == other.recipe()

  def __hash__(self) -> int:
    return hash(self.recipe())

  def __repr__(self) -> str:
    return f"{type(self).__name__}{self.recipe()}"


def _num_shards(
  source: MemorySource | RecordSource,
  split: str,
  shard_info: seqio.ShardInfo | None,
) -> int:
  """Returns the number of shards.

  Raises:
    ValueError: there are more shards than examples.
  """
  num_shards = shard_info.num_shards if shard_info else 1
  size = source.num_input_examples(split)
  if size < num_shards:
    raise ValueError(
      f"{source.name} has {size} examples in split {split!r}, too few for "
      f"{num_shards} shards"
    )
  return num_shards


def _tensor(values: list) -> tf.Tensor | tf.RaggedTensor:
  """Converts a column of values, or of lists of any lengths, to a tensor."""
  if values and isinstance(values[0], list | tuple):
    # If all lists are empty, their type is unknown: assume texts.
    dtype = None if any(values) else tf.string
    return tf.ragged.constant(
      values, dtype=dtype, ragged_rank=1, inner_shape=()
    )
  return tf.constant(values)


def write_records(
  name: str, key: str, examples: Iterable[tuple[str, Example]]
) -> RecordSource:
  """Writes (split, example) pairs to the user's cache, unless it has them.

  Args:
    name: the name of the source.
    key: a digest of everything that determines the examples.
    examples: read only if the key is not in the cache. All have the same
      features; each is assigned to a file by a hash.
  """
  folder = cache.directory() / f"records-{key}"
  if folder.exists():
    return RecordSource(name, folder)
  temporary = cache.temporary_name(folder)
  temporary.mkdir()
  try:
    sizes: dict[str, list[int]] = {}
    writers = {}
    dtypes = None
    for count, (split, example) in enumerate(examples, start=1):
      if dtypes is None:
        dtypes = {k: _record_dtype(value) for k, value in example.items()}
      data = _serialize(example)
      number = int(cache.unit_interval(data) * _NUM_FILES)
      if (split, number) not in writers:
        writers[split, number] = tf.io.TFRecordWriter(
          str(temporary / _record_name(split, number))
        )
      writers[split, number].write(data)
      sizes.setdefault(split, [0] * _NUM_FILES)[number] += 1
      if count % 1_000_000 == 0:
        logging.info("%s: %d million examples", name, count // 1_000_000)
    for writer in writers.values():
      writer.close()
    if not sizes:
      raise ValueError(f"{name} has no examples")
    index = {"sizes": sizes, "dtypes": dtypes}
    (temporary / "index.json").write_text(json.dumps(index))
    try:
      temporary.rename(folder)
    except OSError:
      if not folder.exists():  # If it exists, another process wrote it.
        raise
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  return RecordSource(name, folder)


def _record_name(split: str, number: int) -> str:
  return f"{split}-{number:05d}-of-{_NUM_FILES:05d}.tfrecord"


def _record_dtype(value) -> str:
  if isinstance(value, str):
    return "string"
  return "int64" if isinstance(value, int | np.integer) else "float32"


def _serialize(example: Example) -> bytes:
  def feature(value):
    match _record_dtype(value):
      case "string":
        value = [value.encode()]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
      case "int64":
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
      case _:
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))

  features = {key: feature(value) for key, value in example.items()}
  message = tf.train.Example(features=tf.train.Features(feature=features))
  return message.SerializeToString(deterministic=True)


def _take(texts: Iterable[str], limit_bytes: int) -> Iterator[str]:
  """Yields texts up to a total size; the last one may be truncated."""
  for text in texts:
    data = text.encode()[:limit_bytes]
    limit_bytes -= len(data)
    yield data.decode(errors="ignore")
    if limit_bytes == 0:
      return
