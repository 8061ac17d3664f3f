"""Noise and order: own to a task and a shard, fresh each epoch, resumable."""

import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf

from tasks import mixtures, sources
from tasks.prefix_lm import PrefixLM
from tasks.span_corruption import SpanCorruption
from tasks.task import add_task, fold
from tasks.text_to_text import TextToText
from tests.tasks.streams import BYTES, task

LENGTHS = {"inputs": 64, "targets": 24, "weights": 64}
# Every document is the same text, so that only noise can differ.
SAME = ["the same words again and again " * 4] * 40
DIFFERENT = [f"document {i}: " + "x" * (17 * i % 50) for i in range(40)]


def masks(dataset, count=20):
  """Returns `count` inputs, as tuples."""
  rows = dataset.take(count).as_numpy_iterator()
  return [tuple(row["inputs"].tolist()) for row in rows]


def span_task(name="task_a", texts=SAME):
  return task(name, SpanCorruption(mean_span=2.0), texts)


def test_the_same_seed_gives_the_same_examples():
  first, second = (
    masks(span_task().get_dataset(LENGTHS, seed=3)) for _ in range(2)
  )
  assert first == second
  assert len(set(first)) > 15


def test_seeds_tasks_and_shards_have_noise_of_their_own():
  def shard(index):
    return seqio.ShardInfo(index, 2)

  streams = {
    "plain": span_task().get_dataset(LENGTHS, seed=3),
    "seed": span_task().get_dataset(LENGTHS, seed=4),
    "task": span_task("task_b").get_dataset(LENGTHS, seed=3),
    "shard 0": span_task().get_dataset(LENGTHS, seed=3, shard_info=shard(0)),
    "shard 1": span_task().get_dataset(LENGTHS, seed=3, shard_info=shard(1)),
  }
  drawn = {key: set(masks(dataset)) for key, dataset in streams.items()}
  for one, other in itertools.combinations(drawn, 2):
    assert len(drawn[one] & drawn[other]) <= 2, (one, other)


def test_tasks_over_one_source_read_in_orders_of_their_own():
  def order(name):
    dataset = span_task(name, DIFFERENT).get_dataset(LENGTHS, seed=0)
    return masks(dataset, 10)

  assert order("task_a") != order("task_b")


def test_one_shard_is_as_none():
  whole = span_task().get_dataset(LENGTHS, seed=3)
  one = span_task().get_dataset(
    LENGTHS, seed=3, shard_info=seqio.ShardInfo(0, 1)
  )
  assert masks(whole) == masks(one)


def test_shards_divide_the_documents():
  def documents(shard_info):
    dataset = span_task(texts=DIFFERENT).source.get_dataset(
      "train", seed=0, shard_info=shard_info
    )
    return [row["text"] for row in dataset.as_numpy_iterator()]

  shards = [documents(seqio.ShardInfo(i, 3)) for i in range(3)]
  assert sorted(sum(shards, [])) == sorted(documents(None))


def test_more_shards_than_documents_are_refused():
  source = span_task(texts=SAME[:3]).source
  with pytest.raises(ValueError, match="3 examples .* too few for 4 shards"):
    source.get_dataset("train", shard_info=seqio.ShardInfo(0, 4))


def test_each_epoch_has_an_order_and_noise_of_its_own():
  dataset = span_task(texts=SAME).get_dataset(LENGTHS, seed=0, num_epochs=2)
  drawn = masks(dataset, -1)
  half = len(drawn) // 2
  assert len(set(drawn[:half]) & set(drawn[half:])) <= 4

  objective = TextToText(inputs="{text}", targets="{text}")
  copies = task("copies", objective, DIFFERENT, shuffle_buffer_size=1)
  dataset = copies.get_dataset(LENGTHS, seed=0, num_epochs=2)
  rows = [row["inputs_pretokenized"] for row in dataset.as_numpy_iterator()]
  assert rows[:40] != rows[40:]
  assert sorted(rows[:40]) == sorted(rows[40:])


def test_a_checkpoint_holds_no_text(tmp_path):
  texts = [f"{i} " * 2000 for i in range(200)]
  dataset = span_task(texts=texts).get_dataset(LENGTHS, seed=0, num_epochs=None)
  iterator = iter(dataset)
  next(iterator)
  tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "saved"))
  saved = sum(path.stat().st_size for path in tmp_path.iterdir())
  assert saved < sum(map(len, texts)) / 4


def rows(dataset, count):
  """Returns `count` examples as tuples of all that they hold."""
  examples = dataset.take(count).as_numpy_iterator()
  return [tuple(row[key].tobytes() for key in sorted(row)) for row in examples]


LONG = dict.fromkeys(
  ("inputs", "targets", "weights", "positions", "token_types"), 64
) | {"next_sentence": 1}  # fmt: skip


@pytest.mark.parametrize("name", [*mixtures.OBJECTIVES])
def test_a_checkpoint_resumes_exactly(name, tmp_path):
  dataset = task("resumed", mixtures.OBJECTIVES[name], DIFFERENT).get_dataset(
    LONG, seed=5, num_epochs=None
  )
  iterator = iter(dataset)
  for steps in (3, 150):  # 150 examples are in the second epoch, or later.
    for _ in range(steps):
      next(iterator)
    saved = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "it"))
    expected = [next(iterator) for _ in range(30)]
    resumed = iter(dataset)
    tf.train.Checkpoint(iterator=resumed).read(saved).assert_consumed()
    for row in expected:
      again = next(resumed)
      for key in row:
        np.testing.assert_array_equal(again[key], row[key])


@pytest.mark.parametrize(
  "name",
  # Those that draw something.
  sorted(mixtures.OBJECTIVES.keys() - {"causal_lm", "pegasus"}),
)
def test_no_two_tasks_or_shards_share_noise(name):
  objective = mixtures.OBJECTIVES[name]
  same = ["aa bb. cc dd! " * 60] * 16

  def drawn(task_name, index):
    one = task(task_name, objective, same, shuffle_buffer_size=1)
    shard_info = seqio.ShardInfo(index, 2)
    return rows(one.get_dataset(LONG, seed=3, shard_info=shard_info), 25)

  one = drawn("task_a", 0)
  for other in (drawn("task_a", 1), drawn("task_b", 0)):
    # Of texts that are all the same, and of few kinds of noise, some examples
    # must be equal.
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 15


def test_a_missing_split_is_named():
  with pytest.raises(
    ValueError, match="no split 'valid': it has 'train', 'val"
  ):
    span_task().get_dataset(LENGTHS, "valid")


def test_equal_recipes_are_one_task_and_others_clash():
  columns = {"train": {"text": SAME}}
  source = sources.MemorySource("same", columns)
  recipe = {"source": source, "vocabulary": BYTES}
  name = "task_that_is_added_twice"
  try:
    for _ in range(2):
      assert add_task(name, objective=PrefixLM(), **recipe) == name
    with pytest.raises(ValueError, match="already registered with another obj"):
      add_task(name, objective=PrefixLM(prefix_fraction=0.5), **recipe)
  finally:
    seqio.TaskRegistry.remove(name)


def test_folded_seeds_differ_and_fit_int64():
  seeds = {fold(seed, name) for seed in range(50) for name in "ab"}
  assert len(seeds) == 100
  assert max(seeds) < 2**62
  assert fold(None, "a") is None
