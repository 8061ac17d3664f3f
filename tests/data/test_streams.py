"""Streams make up batches, whichever number of processes reads them."""

import dataclasses
import itertools
import random

import numpy as np
import pytest

from t5x_lite import row_formats
from t5x_lite.data import Data
from t5x_lite.data.reader import Reader
from tests.data.streams import (
  LENGTHS,
  add_noise,
  assert_equal_batches,
  pairs,
  shuffled_pairs,
  which,
)


class Processes:
  """The processes of a run, each with its share of every batch."""

  def __init__(self, spec, count, saved=()):
    reader = Reader(spec, row_formats.ENCODER_DECODER)
    self.shares = [
      reader.batches(process_index=index, process_count=count)
      for index in range(count)
    ]
    if saved:
      for share in self.shares:
        share.restore(saved)

  def take(self, count):
    """Returns this many global batches."""
    batches = []
    for _ in range(count):
      parts = [next(share) for share in self.shares]
      batches.append(
        {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}
      )
    return batches

  def save(self, folder):
    """Saves the positions; returns the folders of the processes."""
    folders = [folder / str(index) for index in range(len(self.shares))]
    for share, own in zip(self.shares, folders, strict=True):
      own.mkdir(parents=True)
      share.save(own)
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("num_streams", [1, 4])
def test_any_number_of_processes_reads_the_same_batches(register, num_streams):
  register("noisy", pairs(60), add_noise)
  spec = Data(
    task="noisy", lengths=LENGTHS, batch_size=8, num_streams=num_streams
  )
  expected = Processes(spec, 1).take(6)
  for count in (2, 8):
    assert_equal_batches(Processes(spec, count).take(6), expected)
  one = dataclasses.replace(spec, num_streams=1)
  assert (which(expected) == which(Processes(one, 1).take(6))) == (
    num_streams == 1
  )


def test_each_process_reads_and_saves_its_own_streams_alone(register, tmp_path):
  register("pairs", pairs(60))
  spec = Data(task="pairs", lengths=LENGTHS, batch_size=8, num_streams=4)
  for count, expected in ((2, [{0, 1}, {2, 3}]), (8, [{0}, (), {1}, ()])):
    folders = Processes(spec, count).save(tmp_path / str(count))
    for folder, streams in zip(folders, expected, strict=False):
      found = {path.name for path in folder.glob("*.json")}
      assert found == {f"data_0000{i}_of_00004.json" for i in streams}


@pytest.mark.slow
def test_stages_and_mixed_passes_keep_their_streams(register, tmp_path):
  register("finite", pairs(13))
  register("endless", pairs(40, start=100), add_noise)
  common = {"lengths": LENGTHS, "batch_size": 4, "num_streams": 2}
  spec = Data(
    task="finite", num_epochs=1, num_batches=9, **common,
    next_stage=Data(task="endless", **common),
  )  # fmt: skip
  whole = Processes(spec, 1).take(10)
  # 13 examples fill three batches and one row of the fourth.
  assert sorted(which(whole[:4])) == list(range(10, 23))
  saved, again = (), []
  for number, (count, steps) in enumerate(((2, 3), (1, 4), (4, 3))):
    run = Processes(spec, count, saved)
    again += run.take(steps)
    saved = run.save(tmp_path / str(number))
  assert_equal_batches(again, whole)
  other = dataclasses.replace(spec.next_stage, num_streams=1)
  with pytest.raises(ValueError, match="finite has 2 and task endless 1"):
    Reader(
      dataclasses.replace(spec, next_stage=other), row_formats.ENCODER_DECODER
    )


@pytest.mark.slow
@pytest.mark.parametrize(
  "settings",
  [
    # Passes in the source's own order: a shuffle buffer would mix the end of an
    # endless stream's pass with the next one.
    {"shuffle": False, "num_streams": 1},
    {"shuffle": False, "num_streams": 4},
    {"num_epochs": 2},
  ],
)
def test_kills_and_other_processes_repeat_and_skip_nothing(
  register, tmp_path, settings
):
  register("noisy", shuffled_pairs(48), add_noise)
  spec = Data(task="noisy", lengths=LENGTHS, batch_size=8, **settings)
  unbroken = Processes(spec, 1).take(12)
  chance = random.Random(spec.num_streams)
  batches, saved = [], ()
  for start in itertools.count():
    run = Processes(spec, chance.choice((1, 2, 4)), saved)
    batches += run.take(min(chance.randint(2, 4), 12 - len(batches)))
    saved = run.save(tmp_path / str(start))
    if len(batches) == 12:
      break
    # Not saved: the kill loses them, and they are read again.
    run.take(min(chance.randint(0, 3), 12 - len(batches)))
  assert start >= 3
  assert_equal_batches(batches, unbroken)
  assert sorted(which(batches)) == sorted(2 * list(range(10, 58)))


def test_a_position_of_one_stream_per_process_is_that_of_a_stream(
  register, tmp_path
):
  # As earlier versions saved it.
  register("pairs", pairs(60))
  spec = Data(task="pairs", lengths=LENGTHS, batch_size=8, num_streams=2)
  run = Processes(spec, 2)
  run.take(3)
  folders = run.save(tmp_path)
  for path in tmp_path.glob("*/*.json"):
    text = path.read_text()
    assert '"stream": [' in text
    path.write_text(text.replace('"stream": [', '"process": ['))
  again = Processes(spec, 1, folders)
  assert_equal_batches(again.take(4), run.take(4))


def test_a_line_says_that_processes_repeat_each_others_reading(register):
  register("pairs", pairs(60))
  spec = Data(task="pairs", lengths=LENGTHS, batch_size=8, num_streams=2)
  reader = Reader(spec, row_formats.ENCODER_DECODER)
  assert reader.describe_sharing(1) is reader.describe_sharing(2) is None
  said = reader.describe_sharing(8)
  assert "4 times the rows" in said and "Data.num_streams=8" in said
