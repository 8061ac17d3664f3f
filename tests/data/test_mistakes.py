"""What cannot be read is refused in one line, before training."""

import dataclasses

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite import row_formats
from t5x_lite.data import Data
from t5x_lite.data.reader import Reader
from tests.data.streams import (
  LENGTHS,
  VOCABULARY,
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


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda data: data[:-3], "3.tfrecord, record 5 is damaged .truncated"),
    (
      lambda data: data[:-9] + b"\xff" + data[-8:],
      "3.tfrecord, record 5 is damaged .corrupted",
    ),
  ],
)
def test_a_damaged_record_is_named_with_its_file(tmp_path, damage, message):
  for number in range(6):
    path = tmp_path / f"{number}.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
      for i in range(5):
        example = {"inputs": [i + 1, 2], "targets": [i + 1]}
        record = seqio.utils.dict_to_tfexample(
          {name: np.array(values) for name, values in example.items()}
        )
        writer.write(record.SerializeToString())
  path = tmp_path / "3.tfrecord"
  path.write_bytes(damage(path.read_bytes()))
  integers = tf.io.VarLenFeature(tf.int64)
  seqio.TaskRegistry.add(
    "of_records",
    source=seqio.TFExampleDataSource(
      {"train": f"{tmp_path}/*.tfrecord"},
      {"inputs": integers, "targets": integers},
    ),
    output_features={
      name: seqio.Feature(VOCABULARY) for name in ("inputs", "targets")
    },
    preprocessors=[
      lambda ds: ds.map(
        lambda row: {name: tf.sparse.to_dense(row[name]) for name in row}
      )
    ],
  )
  spec = Data(task="of_records", lengths=LENGTHS, batch_size=4)
  try:
    with pytest.raises(ValueError, match=message) as error:
      next(Reader(spec, row_formats.ENCODER_DECODER).batches())
  finally:
    seqio.TaskRegistry.remove("of_records")
  assert "\n" not in str(error.value)
