"""Reads a seqio task or mixture as batches, in a stream that resumes exactly.

  examples of each task -> mixture -> rows -> batches of NumPy arrays

The batches are determined by their `data.Data`. Time, threads, other streams
and the number of processes that read them do not change a token.
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import seqio
import tensorflow as tf

from t5x_lite.data import feature_converters, sentinels, task_examples
from t5x_lite.data.batch_iterator import BatchIterator, Stream
from t5x_lite.data.resolved_task import resolve
from t5x_lite.data.row_converter import plain
from t5x_lite.data.spec import Data
from t5x_lite.row_formats import RowFormat

# Batches prepared in advance. Each is saved in every iterator checkpoint.
_PREFETCHED_BATCHES = 4


class Reader:
  """Reads the data that a `Data` configures, for one architecture.

  Attributes:
    spec: the data.
    row_format: the architecture's.
    task: the task or mixture, resolved.
    lengths: the length of each feature in tokens, and of "decoder" if given.
    stages: the readers of this stage and of those that follow (`next_stage`).
  """

  def __init__(self, spec: Data, row_format: RowFormat):
    """Resolves the task and checks the settings; reads no data yet.

    Raises:
      ValueError: with the value, what is allowed and what to do, in one line.
    """
    self.spec, self.row_format = spec, row_format
    self.task = resolve(spec.task)
    splits = self.task.provider.splits
    if spec.split not in splits:
      raise ValueError(
        f"task {spec.task} has no split={spec.split!r}; it has "
        f"{', '.join(sorted(splits))}"
      )
    names = tuple(self.task.features)
    try:
      row_format.check(names)
      self.lengths = row_format.feature_lengths(names, spec.lengths)
    except ValueError as error:
      raise ValueError(f"task {spec.task}: {error}") from None
    self._check_special_ids()
    self.stages = [self]
    for following in spec.stages[1:]:
      following = dataclasses.replace(following, next_stage=None)
      stage = Reader(following, row_format)
      self.stages.append(stage)
      if stage.task.vocabulary != self.task.vocabulary:
        raise ValueError(
          f"the stages of a run need one vocabulary, but task {spec.task} has "
          f"{self.task.vocabulary} and task {stage.spec.task} "
          f"{stage.task.vocabulary}"
        )
      if following.num_streams != spec.num_streams:
        raise ValueError(
          f"the stages of a run need one Data.num_streams, but task {spec.task}"
          f" has {spec.num_streams} and task {following.task} "
          f"{following.num_streams}"
        )

  def _check_special_ids(self) -> None:
    """Checks that the vocabulary has the special ids that the task appends.

    Raises:
      ValueError: an id is missing; names the feature and the vocabulary.
    """
    sentinels.check_padding(self.task.vocabulary)
    for part in self.task.parts:
      for name in self.task.features:
        feature = part.output_features[name]
        # A pass-through vocabulary's ids, EOS included, come from outside.
        is_given = isinstance(feature.vocabulary, seqio.PassThroughVocabulary)
        if feature.add_eos and not is_given:
          sentinels.require_eos(
            feature.vocabulary, f"{name} of task {part.name}"
          )

  @property
  def num_streams(self) -> int:
    """Returns the number of streams that make up each batch."""
    is_endless = any(stage.spec.num_epochs is None for stage in self.stages)
    return self.spec.num_streams if is_endless else 1

  def check_process_count(self, count: int) -> None:
    """Checks that a number of processes can share each batch equally.

    Raises:
      ValueError: it does not divide the batch size.
    """
    for stage in self.stages:
      batch_size = stage.spec.batch_size
      if batch_size % count:
        raise ValueError(
          f"batch_size ({batch_size}) must be divisible by the number of "
          f"processes that share it ({count})"
        )

  def check_streams(self, count: int) -> None:
    """Checks that a number of processes can share the streams equally.

    Raises:
      ValueError: neither divides the other, or the streams do not divide the
        batch.
    """
    streams = self.num_streams
    if streams % count and count % streams:
      raise ValueError(
        f"Data.num_streams ({streams}) must divide the number of processes "
        f"that share a batch ({count}), or be a multiple of it"
      )
    for stage in self.stages:
      if stage.spec.batch_size % streams:
        raise ValueError(
          f"batch_size ({stage.spec.batch_size}) must be divisible by "
          f"Data.num_streams ({streams})"
        )

  def describe_sharing(self, count: int) -> str | None:
    """Returns a line if several processes read the same stream, else None."""
    streams = self.num_streams
    if count <= streams or self.spec.num_epochs is not None:
      return None
    return (
      f"{count} processes read data in {streams} stream(s): each prepares "
      f"{count // streams} times the rows that it takes; Data.num_streams="
      f"{count}, in a new run, shares out the work (in another order of "
      "examples)"
    )

  def replace(self, **changes: Any) -> "Reader":
    """Returns a reader of the same data with some fields of `Data` changed."""
    return Reader(dataclasses.replace(self.spec, **changes), self.row_format)

  def batches(
    self, *, process_index: int = 0, process_count: int = 1
  ) -> BatchIterator:
    """Returns the batches of a process.

    A global batch has an equal block of rows from each of `num_streams` streams
    that share no example. A process reads the streams that its rows are of, and
    takes its rows of them. So the global batches do not depend on the number of
    processes, and a position that one number of processes has saved is restored
    by any other.

    The last batch of a finite stream is filled up with rows of padding (segment
    ids and weights 0): no example is lost, and all batches have one shape.

    Features longer than their lengths are truncated as in `trimming.py`. But if
    the task plans its lengths itself (one of its preprocessors takes
    `sequence_length`), a feature that is too long is a mistake in the plan, and
    an error that shows both numbers.

    Args:
      process_index: which share of each batch to return.
      process_count: the number of shares.

    Returns:
      An iterator of dicts of int32 arrays [batch_size / process_count, length];
      `feature_converters.py` draws them.

    Raises:
      ValueError: the split is empty, the processes cannot share a batch, or the
        stages have different shapes.
    """
    self.check_process_count(process_count)
    self.check_streams(process_count)
    count = self.num_streams
    # Several streams for a process, or several processes for a stream.
    streams_each = max(1, count // process_count)
    processes_each = max(1, process_count // count)
    first = process_index * count // process_count
    share = process_index % processes_each
    size = self.spec.batch_size // max(count, process_count)
    return BatchIterator(
      [self._stream((first + i, count)) for i in range(streams_each)],
      rows=slice(share * size, (share + streams_each) * size),
      saves=share == 0,
      if_empty=task_examples.no_examples(self.spec),
    )

  def _stream(self, shard: tuple[int, int]) -> Stream:
    """Returns one stream, (index, count), over all stages."""
    ds = self._stage(shard)
    for stage in self.stages[1:]:
      following = stage._stage(shard)
      _check_shapes(self.spec, ds, stage.spec, following)
      ds = ds.concatenate(following)
    ds = ds.prefetch(_PREFETCHED_BATCHES).with_options(
      options(warm_start=self.spec.next_stage is None)
    )
    settings = dataclasses.asdict(self.spec)
    stage = settings
    while stage is not None:
      del stage["num_streams"]  # It is in `shard`.
      stage = stage["next_stage"]
    settings["architecture"] = self.row_format.name
    return Stream(ds, settings, shard=shard, files=self._files)

  def _files(self) -> Iterator[str]:
    """Yields the files of all stages."""
    for stage in self.stages:
      for task in stage.task.parts:
        if stage.spec.split in task.splits:
          yield from task_examples.paths(task, stage.spec)

  def _stage(self, shard: tuple[int, int]) -> tf.data.Dataset:
    """Returns a stream's rows of this stage alone."""
    spec = self.spec
    # Unseeded operations in preprocessors of others become deterministic too.
    # (One seed for all shards: it also enters seeded operations, and a source
    # that is sharded after it was shuffled needs one order.)
    tf.random.set_seed(task_examples.seed(spec, "operations"))
    endless = spec.num_epochs is None
    convert = feature_converters.converter(
      self.row_format,
      pack=spec.pack,
      loss_on_inputs=spec.loss_on_inputs,
      **self.task.starts,
    )
    rows = convert(self.examples(shard if endless else (0, 1)), self.lengths)
    if endless:
      ds = rows.batch(spec.batch_size // shard[1], drop_remainder=True)
    else:
      ds = rows.batch(spec.batch_size).map(
        plain(lambda batch: _take_share(batch, spec.batch_size, *shard))
      )
    return ds if spec.num_batches is None else ds.take(spec.num_batches)

  def examples(self, shard: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
    """Returns the examples of the task or mixture, before they become rows.

    Args:
      shard: (index, count) of the part to read.

    Returns:
      Dicts of int32 vectors, no longer than their lengths.
    """
    spec, provider = self.spec, self.task.provider
    if isinstance(provider, seqio.Task):
      return self._examples_of(provider, shard)
    rates = {
      task: rate
      for task in provider.tasks
      if spec.split in task.splits and (rate := provider.get_rate(task))
    }
    if not rates:
      raise ValueError(task_examples.no_examples(spec))
    parts = [self._examples_of(task, shard) for task in rates]
    weights = list(rates.values())
    seed = task_examples.seed(spec, "mixture", spec.task, shard)
    if spec.num_epochs is None:
      return provider._sample_fn(parts, weights, seed)
    # seqio would stop where the first task ends; here no example is left out.
    if spec.shuffle:
      return tf.data.Dataset.sample_from_datasets(parts, weights, seed)
    ds, *others = parts
    for part in others:
      ds = ds.concatenate(part)
    return ds

  def _examples_of(self, task: seqio.Task, shard) -> tf.data.Dataset:
    return task_examples.read(
      task, self.spec, self.lengths, shard, row_format=self.row_format
    )


def _check_shapes(spec: Data, ds, stage: Data, following) -> None:
  shapes, others = (
    {name: tuple(x.shape) for name, x in sorted(part.element_spec.items())}
    for part in (ds, following)
  )
  if shapes != others:
    different = sorted(
      name for name in shapes | others if shapes.get(name) != others.get(name)
    )
    raise ValueError(
      f"the stages of a run need batches of one shape, but for {different[0]} "
      f"task {spec.task} has {shapes.get(different[0])} and task {stage.task} "
      f"{others.get(different[0])}: set lengths and batch_size accordingly, or "
      "train the stages in separate runs, with warm_start"
    )


def _take_share(batch, batch_size: int, index: int, count: int):
  """Pads a batch to its full size and returns the rows of a stream."""
  share = batch_size // count
  rows = {}
  for name, value in batch.items():
    missing = batch_size - tf.shape(value)[0]
    value = tf.pad(value, [[0, missing], *[[0, 0]] * (value.shape.rank - 1)])
    rows[name] = tf.ensure_shape(
      value[index * share : (index + 1) * share], [share, *value.shape[1:]]
    )
  return rows


def options(*, warm_start: bool = False) -> tf.data.Options:
  """Returns a stream's options: deterministic, resumable, with few threads."""
  options = tf.data.Options()
  options.deterministic = True
  # Half of the cores, since on a CPU the model uses the same ones.
  has_affinity = hasattr(os, "sched_getaffinity")
  cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
  options.threading.private_threadpool_size = max(1, cores // 2)
  options.threading.max_intra_op_parallelism = 1
  # A warm start prepares the first batches while the model compiles. Not with
  # stages: a short one would end, and the next one's source start, before a
  # position in the first is restored; a source that starts twice may have
  # another order the second time.
  options.experimental_warm_start = warm_start
  # If the pipeline has Python code or stateful random operations, its position
  # could not be restored: saving it is an error.
  options.experimental_external_state_policy = (
    tf.data.experimental.ExternalStatePolicy.FAIL
  )
  return options
