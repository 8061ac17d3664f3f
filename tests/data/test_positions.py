"""A stream of batches goes on exactly where it was saved."""

import dataclasses
import os

import pytest
import seqio
import tensorflow as tf

from t5x_lite import row_formats
from t5x_lite.data import Data
from t5x_lite.data.reader import Reader
from tests.data.streams import (
  LENGTHS,
  add_noise,
  assert_equal_batches,
  pairs,
  take,
  which,
)


@pytest.mark.parametrize("pack", [True, False])
def test_a_restored_stream_goes_on_to_the_last_bit(register, pack, tmp_path):
  register("noisy", pairs(30), add_noise)
  spec = Data(task="noisy", lengths=LENGTHS, batch_size=4, pack=pack, seed=3)
  # 60 batches are several epochs; each save is in another state of the buffers.
  expected = take(Reader(spec, row_formats.ENCODER_DECODER).batches(), 60)
  stream = Reader(spec, row_formats.ENCODER_DECODER).batches()
  stream.check_resumable()
  position = 0
  for step in (0, 1, 7, 40):
    take(stream, step - position)
    position = step
    os.mkdir(tmp_path / str(step))
    stream.save(tmp_path / str(step))
  assert_equal_batches(take(stream, 20), expected[40:])
  resumed = Reader(spec, row_formats.ENCODER_DECODER).batches()
  for step in (7, 40, 0, 1):  # Any order: a restore forgets what was before.
    resumed.restore([tmp_path / str(step)])
    assert_equal_batches(take(resumed, 20), expected[step : step + 20])


def test_a_restored_mixture_goes_on_to_the_last_bit(register, tmp_path):
  register("a", pairs(20), add_noise)
  register("b", pairs(9, start=100), add_noise)
  seqio.MixtureRegistry.add("a_and_b", [("a", 3), ("b", 1)])
  try:
    spec = Data(task="a_and_b", lengths=LENGTHS, batch_size=4, pack=True)
    stream = Reader(spec, row_formats.PREFIX).batches()
    take(stream, 11)
    stream.save(tmp_path)
    expected = take(stream, 20)
    resumed = Reader(spec, row_formats.PREFIX).batches()
    resumed.restore([tmp_path])
    assert_equal_batches(take(resumed, 20), expected)
  finally:
    seqio.MixtureRegistry.remove("a_and_b")


@pytest.fixture
def stages(register):
  """Three batches of one task, then five of another, then the first again."""
  register("first", pairs(20), add_noise)
  register("second", pairs(30, start=100), add_noise)
  common = {"lengths": LENGTHS, "batch_size": 4, "pack": True}
  return Data(
    task="first", num_batches=3, **common,
    next_stage=Data(
      task="second", num_batches=5, **common,
      next_stage=Data(task="first", seed=1, **common),
    ),
  )  # fmt: skip


def test_stages_follow_one_another_and_resume_to_the_last_bit(stages, tmp_path):
  stream, expected = Reader(stages, row_formats.ENCODER_DECODER).batches(), []
  for step in (2, 3, 9, 14):  # Within a stage, at its end, in the last.
    expected += take(stream, step - len(expected))
    os.mkdir(tmp_path / str(step))
    stream.save(tmp_path / str(step))
  is_second = [min(which([batch])) >= 100 for batch in expected]
  assert is_second == [False] * 3 + [True] * 5 + [False] * 6
  # Each is the stream that it is alone.
  second = dataclasses.replace(stages.next_stage, next_stage=None)
  assert_equal_batches(
    list(Reader(second, row_formats.ENCODER_DECODER).batches()), expected[3:8]
  )
  resumed = Reader(stages, row_formats.ENCODER_DECODER).batches()
  for step in (9, 2, 3):
    resumed.restore([tmp_path / str(step)])
    assert_equal_batches(take(resumed, 14 - step), expected[step:])


def test_stages_of_other_shapes_are_refused_with_both(stages):
  longer = dataclasses.replace(
    stages.next_stage, lengths={"inputs": 9, "targets": 4}
  )
  with pytest.raises(
    ValueError, match=r"task first has \(4, 12\) and task second \(4, 13\): set"
  ):
    Reader(
      dataclasses.replace(stages, next_stage=longer), row_formats.CAUSAL
    ).batches()


def test_stages_of_other_vocabularies_are_refused(stages, register):
  other = seqio.Feature(seqio.PassThroughVocabulary(size=77))
  register("other", pairs(3), inputs=other, targets=other)
  then = dataclasses.replace(stages.next_stage, task="other")
  with pytest.raises(ValueError, match="one vocabulary, but task first has"):
    Reader(dataclasses.replace(stages, next_stage=then), row_formats.CAUSAL)


def test_a_stage_without_an_end_is_refused(stages):
  with pytest.raises(ValueError, match="second, but no num_batches"):
    dataclasses.replace(stages, num_batches=None)


def test_a_position_is_only_restored_to_its_own_stream(register, tmp_path):
  register("pairs", pairs(7))
  spec = Data(task="pairs", lengths=LENGTHS, batch_size=4)
  Reader(spec, row_formats.ENCODER_DECODER).batches().save(tmp_path)
  other = dataclasses.replace(spec, batch_size=8, seed=1)
  with pytest.raises(
    ValueError, match=r"batch_size was 4, is 8; seed was 0, is 1$"
  ):
    Reader(other, row_formats.ENCODER_DECODER).batches().restore([tmp_path])
  other = dataclasses.replace(spec, num_streams=2)
  with pytest.raises(ValueError, match="with another Data.num_streams"):
    Reader(other, row_formats.ENCODER_DECODER).batches().restore([tmp_path])


def test_what_keeps_no_position_is_refused(register, tmp_path):
  def unseeded(dataset):
    return dataset.map(
      lambda ex: {**ex, "inputs": tf.random.uniform([2], 0, 9, tf.int32)}
    )

  def python(split, shuffle_files, seed=None):
    spec = tf.TensorSpec([3], tf.int32)
    return tf.data.Dataset.from_generator(
      lambda: iter([{"inputs": [1, 2, 3], "targets": [1, 2, 3]}]),
      output_signature={"inputs": spec, "targets": spec},
    )

  register("unseeded", pairs(7), unseeded)
  register("python", python)
  for task, operation in (
    ("unseeded", "RandomUniformInt"),
    ("python", "PyFunc"),
  ):
    spec = Data(task=task, lengths=LENGTHS, batch_size=4)
    stream = Reader(spec, row_formats.ENCODER_DECODER).batches()
    with pytest.raises(
      ValueError, match=f"task {task} .* state of {operation}"
    ):
      stream.check_resumable()
    next(stream)  # It can be read all the same.
