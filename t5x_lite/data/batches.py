"""Reads a seqio task or mixture as a stream of batches that resumes exactly.

  task's examples -> mixed -> rows -> batches of numpy

The stream is a function of its `data.Data` and of the process's share of the
batch: nothing else (time, threads, other streams) changes a token of it.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import seqio
import tensorflow as tf

from t5x_lite.data import (
  batch_iterator,
  feature_converters,
  sentinels,
  task_examples,
)
from t5x_lite.data.spec import Data
from t5x_lite.row_formats import RowFormat

Provider = seqio.Task | seqio.Mixture
# Batches made ahead. Each is in every checkpoint of the iterator.
_PREFETCHED_BATCHES = 4


def batches(
  spec: Data,
  row_format: RowFormat,
  *,
  process_index: int = 0,
  process_count: int = 1,
) -> batch_iterator.BatchIterator:
  """Returns the stream of batches of a process.

  A stream without end (`num_epochs=None`) gives each process its own examples:
  no two processes share one. A stream that ends is read by all of them, and
  each takes its rows of every global batch; so all see the same number of
  batches, and the result does not depend on their number. Its last batch is
  filled up with rows of padding (segment ids and weights 0): no example is
  lost and the shapes stay.

  Features longer than their lengths are cut, as `trimming.py` says. But if the
  task plans its lengths itself (one of its preprocessors asks for
  `sequence_length`), too long is a mistake in the plan, and refused with the
  numbers.

  Args:
    spec: what to read.
    row_format: of the model that the batches are for.
    process_index: which share of each batch to give.
    process_count: the number of shares.

  Returns:
    An iterator of dicts of int32 arrays [batch_size / process_count, length];
    `feature_converters.py` draws them.

  Raises:
    ValueError: for the mistakes that `check` knows, or for a split that is
      empty.
  """
  check(spec, row_format, process_count=process_count)
  shard = (process_index, process_count)
  ds = _stage(spec, row_format, shard)
  for stage in stages(spec)[1:]:
    following = _stage(stage, row_format, shard)
    _check_shapes(spec, ds, stage, following)
    ds = ds.concatenate(following)
  ds = ds.prefetch(_PREFETCHED_BATCHES).with_options(
    options(warm_start=spec.next_stage is None)
  )
  stream = dataclasses.asdict(spec) | {"architecture": row_format.name}
  return batch_iterator.BatchIterator(
    ds, stream, process=shard, if_empty=task_examples.nothing(spec)
  )


def stages(spec: Data) -> list[Data]:
  """Returns what is read one after the other: a spec, `next_stage`, ..."""
  return [spec, *(stages(spec.next_stage) if spec.next_stage else ())]


def _stage(spec: Data, row_format: RowFormat, shard) -> tf.data.Dataset:
  """Returns the batches of a process, without those of later stages."""
  # Makes unseeded operations in other people's preprocessors repeat too.
  # (The same in all shards: it enters seeded operations as well, and a source
  # that is sharded after it was shuffled needs one order.)
  tf.random.set_seed(task_examples.seed(spec, "operations"))
  endless = spec.num_epochs is None
  convert = feature_converters.converter(
    row_format,
    pack=spec.pack,
    loss_on_inputs=spec.loss_on_inputs,
    **starts(spec.task),
  )
  rows = convert(
    examples(spec, row_format, shard=shard if endless else (0, 1)),
    feature_lengths(spec, row_format),
  )
  if endless:
    ds = rows.batch(spec.batch_size // shard[1], drop_remainder=True)
  else:
    ds = rows.batch(spec.batch_size).map(
      _plain(lambda batch: _take_share(batch, spec.batch_size, *shard))
    )
  return ds if spec.num_batches is None else ds.take(spec.num_batches)


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
      "start a run of its own with warm_start"
    )


def check(spec: Data, row_format: RowFormat, *, process_count: int = 1) -> None:
  """Refuses what cannot be read, before any of it is.

  Raises:
    ValueError: with the value, what is allowed and what to do, in one line.
  """
  for stage in stages(spec):
    _check_stage(stage, row_format, process_count)
    if vocabularies(stage.task) != vocabularies(spec.task):
      raise ValueError(
        f"the stages of a run need one vocabulary, but task {spec.task} has "
        f"{vocabularies(spec.task)[1]} and task {stage.task} "
        f"{vocabularies(stage.task)[1]}"
      )


def _check_stage(spec: Data, row_format: RowFormat, process_count: int) -> None:
  provider = get_task(spec.task)
  if spec.split not in provider.splits:
    raise ValueError(
      f"task {spec.task} has no split {spec.split!r}; it has "
      f"{', '.join(sorted(provider.splits))}"
    )
  names = feature_names(provider)
  try:
    row_format.check(names)
  except ValueError as error:
    raise ValueError(f"task {spec.task}: {error}") from None
  feature_lengths(spec, row_format)
  if spec.batch_size % process_count:
    raise ValueError(
      f"batch_size ({spec.batch_size}) must be divisible by the number of "
      f"processes that share it ({process_count})"
    )
  _check_special_ids(spec.task)


def _check_special_ids(task: str) -> None:
  """Refuses a task whose vocabulary lacks a special id that it appends.

  Raises:
    ValueError: naming the feature and the vocabulary.
  """
  sentinels.check_padding(vocabularies(task)[1])
  for part in seqio.get_subtasks(get_task(task)):
    for name in feature_names(part):
      feature = part.output_features[name]
      # Of a pass-through the ids come from outside, and their end with them.
      is_given = isinstance(feature.vocabulary, seqio.PassThroughVocabulary)
      if feature.add_eos and not is_given:
        sentinels.require_eos(feature.vocabulary, f"{name} of task {part.name}")


def get_task(name: str) -> Provider:
  """Returns the seqio task or mixture of a name.

  Raises:
    ValueError: naming what comes near.
  """
  known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  if name in known:
    return seqio.get_mixture_or_task(name)
  near = difflib.get_close_matches(name, sorted(known), n=3)
  raise ValueError(
    f"unknown task {name!r}: "
    + (f"did you mean {' or '.join(near)}?" if near else "")
    + ("" if near else f"there are {', '.join(sorted(known)) or 'none'}")
  )


def feature_lengths(spec: Data, row_format: RowFormat) -> dict[str, int]:
  """Returns the length of each feature of a task that is used.

  Raises:
    ValueError: if lengths are missing, superfluous or unequal.
  """
  names = feature_names(get_task(spec.task))
  try:
    return row_format.feature_lengths(names, spec.lengths)
  except ValueError as error:
    raise ValueError(f"task {spec.task}: {error}") from None


def vocabularies(task: str) -> tuple[seqio.Vocabulary, seqio.Vocabulary]:
  """Returns the vocabularies of a task's inputs and of its targets.

  Raises:
    ValueError: if they differ, or those of a mixture's tasks: a model has one
      token embedding.
  """
  found = [
    (f"{feature} of {part.name}", part.output_features[feature].vocabulary)
    for part in seqio.get_subtasks(get_task(task))
    for feature in ("inputs", "targets")
    if feature in part.output_features
  ]
  (first, vocabulary), *others = found
  for other, another in others:
    if another != vocabulary:
      raise ValueError(
        f"task {task} has two vocabularies, but a model takes one: {first} has "
        f"{vocabulary}, {other} has {another}"
      )
  return vocabulary, vocabulary


def required_vocab_size(task: str) -> int:
  """Returns the number of token ids of a task, extra ids included."""
  return vocabularies(task)[1].vocab_size


def starts(task: str) -> dict[str, Any]:
  """Returns how a task's rows begin, as feature_converters.py takes it."""
  return feature_converters.starts(vocabularies(task)[1])


def vocabulary_digest(task: str) -> str:
  """Returns a digest of all that turns text into a task's ids and back.

  Equal digests mean equal vocabularies, whatever file they were read from.
  """
  vocabulary = vocabularies(task)[1]
  names = "vocab_size", "extra_ids", "eos_id", "unk_id"
  ids = [getattr(vocabulary, name) for name in names]
  start_id, *others = starts(task).values()
  # What is as in most vocabularies leaves the digests of earlier runs as is.
  ids += [start_id, *(others if any(others) else ())]
  digest = hashlib.sha256(json.dumps(ids).encode())
  model = getattr(vocabulary, "sp_model", None)
  if model is None:
    # Without a file to hash: what every id stands for.
    pieces = [vocabulary.decode([i]) for i in range(vocabulary.vocab_size)]
    model = json.dumps(pieces, default=str).encode()
  digest.update(model)
  return digest.hexdigest()


def examples(
  spec: Data, row_format: RowFormat, *, shard: tuple[int, int] = (0, 1)
) -> tf.data.Dataset:
  """Returns a task's or mixture's examples, before they are made rows.

  Args:
    spec: what to read.
    row_format: of the model that the batches are for.
    shard: (index, count) of the part to read.

  Returns:
    Dicts of int32 vectors, no longer than their lengths.
  """
  provider = get_task(spec.task)
  lengths = feature_lengths(spec, row_format)
  choose = functools.partial(
    feature_converters.choose_targets, row_format=row_format
  )
  if isinstance(provider, seqio.Task):
    return task_examples.read(provider, spec, lengths, shard, choose=choose)
  rates = {
    task: rate
    for task in provider.tasks
    if spec.split in task.splits and (rate := provider.get_rate(task))
  }
  if not rates:
    raise ValueError(task_examples.nothing(spec))
  parts = [
    task_examples.read(task, spec, lengths, shard, choose=choose)
    for task in rates
  ]
  weights = list(rates.values())
  seed = task_examples.seed(spec, "mixture", spec.task, shard)
  if spec.num_epochs is None:
    return provider._sample_fn(parts, weights, seed)
  # seqio stops where the first task ends; here every example comes.
  if spec.shuffle:
    return tf.data.Dataset.sample_from_datasets(parts, weights, seed)
  ds, *others = parts
  for part in others:
    ds = ds.concatenate(part)
  return ds


def _take_share(batch, batch_size: int, index: int, count: int):
  """Fills a batch up with padding and returns the rows of a process."""
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
  """Returns how a stream is read: its threads, and that it can be resumed."""
  options = tf.data.Options()
  options.deterministic = True
  # Half of the cores: on a CPU the model computes on the same ones.
  has_affinity = hasattr(os, "sched_getaffinity")
  cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
  options.threading.private_threadpool_size = max(1, cores // 2)
  options.threading.max_intra_op_parallelism = 1
  # The first batches are made while the model compiles. Not of stages: a short
  # one would be over, and a source of the next one begun, before a position in
  # the first is restored; begun again, the source gives another order.
  options.experimental_warm_start = warm_start
  # Python code or unseeded noise in the pipeline: refuse to save a position
  # that could not be returned to.
  options.experimental_external_state_policy = (
    tf.data.experimental.ExternalStatePolicy.FAIL
  )
  return options


def feature_names(provider: Provider) -> tuple[str, ...]:
  """Returns which features are used; a task may have others for its metrics."""
  known = (
    "inputs", "targets", "weights", "positions", "token_types",
    "next_sentence",
  )  # fmt: skip
  return tuple(name for name in known if name in provider.output_features)


_plain: Callable = tf.autograph.experimental.do_not_convert
