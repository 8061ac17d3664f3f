"""What cannot be read is refused in one line, before training."""

import dataclasses

import pytest

from t5x_lite import row_formats
from t5x_lite.data import Data
from t5x_lite.data.reader import Reader
from tests.data.streams import (
  LENGTHS,
  long_pair,
  pairs,
)


def test_a_plan_that_does_not_fit_is_refused_with_the_numbers(register):
  def plan(dataset, sequence_length):
    return dataset

  register("planned", long_pair, plan)
  spec = Data(
    task="planned", lengths={"inputs": 20, "targets": 9}, batch_size=1
  )
  with pytest.raises(
    ValueError, match=r"^task planned: targets have 10 tokens, .* is 9$"
  ):
    next(Reader(spec, row_formats.ENCODER_DECODER).batches())
  lengths = {"inputs": 20, "targets": 10, "decoder": 29}
  spec = dataclasses.replace(spec, lengths=lengths)
  with pytest.raises(ValueError, match="inputs and targets have 30 .* 29"):
    next(Reader(spec, row_formats.CAUSAL).batches())


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"task": "peirs"}, "unknown task 'peirs'; did you mean pairs?"),
    ({"task": "xyzzy"}, "unknown task 'xyzzy'; there are .*pairs"),
    ({"split": "test"}, "task pairs has no split='test'; it has train"),
    ({"lengths": {"targets": 4}}, "must name inputs, targets, not targets"),
    ({"lengths": {"inputs": 4, "targets": 1}}, r"targets \(1\) .* at least 2"),
    ({"lengths": LENGTHS | {"decoder": 9}}, "not decoder, inputs, targets"),
    ({"batch_size": 3}, r"batch_size \(3\) must be divisible .* \(2\)"),
  ],
)
def test_mistakes_are_refused_in_one_line(register, changes, message):
  register("pairs", pairs(3))
  spec = Data(task="pairs", lengths=LENGTHS, batch_size=4)
  Reader(spec, row_formats.ENCODER_DECODER).check_process_count(2)
  spec = dataclasses.replace(spec, **changes)
  with pytest.raises(ValueError, match=message) as error:
    Reader(spec, row_formats.ENCODER_DECODER).check_process_count(2)
  assert "\n" not in str(error.value)


def test_decoder_row_must_have_room_for_the_targets(register):
  register("pairs", pairs(3))
  lengths = {"inputs": 8, "targets": 4, "decoder": 3}
  spec = Data(task="pairs", lengths=lengths, batch_size=4)
  with pytest.raises(ValueError, match=r"decoder \(3\) .* targets \(4\)"):
    Reader(spec, row_formats.CAUSAL)


@pytest.mark.parametrize("num_epochs", [None, 1])
def test_a_task_that_gives_nothing_is_refused_not_waited_for(
  register, num_epochs
):
  register("none", pairs(8), lambda ds: ds.filter(lambda _: False))
  spec = Data(task="none", lengths=LENGTHS, batch_size=2, num_epochs=num_epochs)
  with pytest.raises(ValueError, match="task none, .* has no examples"):
    next(Reader(spec, row_formats.ENCODER_DECODER).batches())


def test_a_stream_without_examples_is_refused(register):
  register("pairs", pairs(3))
  spec = Data(task="pairs", lengths=LENGTHS, batch_size=4, num_streams=4)
  with pytest.raises(ValueError, match=r"\(shard 3 of 4\) has no examples"):
    Reader(spec, row_formats.ENCODER_DECODER).batches()


@pytest.mark.parametrize(
  ("streams", "processes", "message"),
  [
    (2, 3, r"Data.num_streams \(2\) must divide .* \(3\), or be a multiple"),
    (4, 6, r"Data.num_streams \(4\)"),
    (5, 1, r"batch_size \(12\) must be divisible by Data.num_streams \(5\)"),
  ],
)
def test_streams_that_cannot_be_shared_are_refused(
  register, streams, processes, message
):
  register("pairs", pairs(30))
  spec = Data(task="pairs", lengths=LENGTHS, batch_size=12, num_streams=streams)
  reader = Reader(spec, row_formats.ENCODER_DECODER)
  with pytest.raises(ValueError, match=message):
    reader.batches(process_count=processes)
  # What is read in passes is one stream, whatever a configuration sets for all.
  finite = dataclasses.replace(spec, num_epochs=1)
  reader = Reader(finite, row_formats.ENCODER_DECODER)
  assert reader.num_streams == 1
  next(reader.batches(process_count=processes))


def test_a_task_without_a_promised_feature_is_refused(register):
  register("half", pairs(3), lambda ds: ds.map(lambda ex: {"inputs": ex}))
  spec = Data(task="half", lengths=LENGTHS, batch_size=2)
  with pytest.raises(ValueError, match="has output feature targets, .* inputs"):
    Reader(spec, row_formats.ENCODER_DECODER).batches()
