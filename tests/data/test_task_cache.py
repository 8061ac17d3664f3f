"""Caches: written without Beam, read by seqio and by `data` alike."""

import dataclasses
import os

import pytest
import seqio
import tensorflow as tf

from t5x_lite import row_formats
from t5x_lite.data import Data, task_cache
from t5x_lite.data.reader import Reader
from t5x_lite.data.resolved_task import resolve
from t5x_lite.files import lock
from tasks import mixtures
from tests.tasks import streams

BYTES = seqio.ByteVocabulary()
LENGTHS = {"inputs": 8, "targets": 8}
reads = []


def texts(split, shuffle_files=False, seed=None):
  reads.append(split)
  rows = [f"{split} {i}" for i in range(20)]
  return tf.data.Dataset.from_tensor_slices({"inputs": rows, "targets": rows})


@pytest.fixture(scope="module")
def task():
  feature = seqio.Feature(BYTES)
  yield seqio.TaskRegistry.add(
    "to_cache",
    seqio.FunctionDataSource(texts, splits=["train", "test"]),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.CacheDatasetPlaceholder(),
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={"inputs": feature, "targets": feature},
  )
  seqio.TaskRegistry.remove("to_cache")


@pytest.fixture(scope="module")
def cache_dir(task, tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("caches"))
  lines = []
  task_cache.write(task, folder, num_shards=3, report=lines.append)
  assert lines == [
    f"to_cache, split {split}: 20 examples" for split in task.splits
  ]
  return folder


def rows(batches):
  return sorted(
    tuple(row) for batch in batches for row in batch["decoder_target_tokens"]
  )


@pytest.mark.parametrize("processes", [1, 2])
def test_a_cached_task_gives_the_same_examples_without_its_source(
  task, cache_dir, processes
):
  spec = Data(task="to_cache", lengths=LENGTHS, batch_size=4, num_epochs=1)

  def read(spec):
    return rows(
      batch
      for i in range(processes)
      for batch in Reader(spec, row_formats.ENCODER_DECODER).batches(
        process_index=i, process_count=processes
      )
    )

  expected = read(spec)
  count = len(reads)
  assert read(dataclasses.replace(spec, cache_dir=cache_dir)) == expected
  assert len(reads) == count


def test_seqio_reads_the_cache(task, cache_dir):
  before = seqio.get_global_cache_dirs()
  seqio.set_global_cache_dirs([cache_dir])
  try:
    assert task.get_cached_stats("train") == {"examples": 20}
    cached = task.get_dataset(LENGTHS, "train", use_cached=True, shuffle=False)
    plain = task.get_dataset(LENGTHS, "train", shuffle=False)
    cached, plain = (
      sorted(row["targets"].tolist() for row in ds.as_numpy_iterator())
      for ds in (cached, plain)
    )
    assert cached == plain
  finally:
    seqio.set_global_cache_dirs(before)


def test_a_cache_is_written_once_and_whole(task, cache_dir, tmp_path):
  with pytest.raises(ValueError, match="to_cache is cached in .* already"):
    task_cache.write(task, cache_dir)
  with pytest.raises(
    ValueError, match="to_cache has no cache in .*t5x_lite ca"
  ):
    task_cache.source(task, str(tmp_path), "train")

  def stop(line):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    task_cache.write(task, str(tmp_path), report=stop)
  assert not os.listdir(tmp_path)


def test_a_cache_has_one_writer_at_a_time(task, tmp_path):
  def again(line):
    with pytest.raises(lock.Held, match=f"is held by process {os.getpid()}"):
      task_cache.write(task, str(tmp_path))
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    task_cache.write(task, str(tmp_path), report=again)
  assert not os.listdir(tmp_path)


def test_a_task_without_a_place_to_cache_is_refused(tmp_path):
  plain = seqio.Task(
    "plain",
    seqio.FunctionDataSource(texts, splits=["train"]),
    preprocessors=[seqio.preprocessors.tokenize],
    output_features={},
  )
  with pytest.raises(ValueError, match="has no seqio.CacheDatasetPlaceholder"):
    task_cache.write(plain, str(tmp_path))


@pytest.mark.parametrize("name", ["span_corruption", "bart", "fim"])
def test_an_objective_is_cached_before_windows_and_noise(name, tmp_path):
  assert all(
    seqio.CacheDatasetPlaceholder in map(type, objective.preprocessors())
    for objective in mixtures.OBJECTIVES.values()
  )
  documents = [f"Text {i}. It has two sentences, {2 * i}!" for i in range(40)]
  to_cache = streams.task(
    f"{name}_to_cache", mixtures.OBJECTIVES[name], documents
  )
  seqio.TaskRegistry.add_provider(to_cache.name, to_cache)
  try:
    folder = str(tmp_path)
    task_cache.write(to_cache, folder, num_shards=1, report=lambda line: None)
    names = resolve(to_cache.name).features
    spec = Data(
      task=to_cache.name, lengths=dict.fromkeys(names, 32), batch_size=1,
      shuffle=False, num_epochs=2,
    )  # fmt: skip
    if name == "span_corruption":
      spec.lengths["targets"] = 16
    architecture = "encoder_decoder" if "inputs" in names else "causal"

    def read(spec):
      batches = Reader(spec, row_formats.ALL[architecture]).batches()
      return [tuple(row["decoder_input_tokens"][0]) for row in batches]

    cached = read(dataclasses.replace(spec, cache_dir=folder))
    assert cached == read(spec)
    # The second epoch has windows and noise of its own.
    half = len(cached) // 2
    assert half > 10 and cached[:half] != cached[half:]
  finally:
    seqio.TaskRegistry.remove(to_cache.name)
