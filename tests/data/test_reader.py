"""Streams of batches: what they hold, and in which order."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
import scipy.stats
import seqio
import tensorflow as tf

from t5x_lite import row_formats
from t5x_lite.data import Data, token_counts
from t5x_lite.data.reader import Reader
from t5x_lite.data.resolved_task import resolve
from tests.data.streams import (
  LENGTHS,
  VOCABULARY,
  add_noise,
  assert_equal_batches,
  long_pair,
  pairs,
  shuffled_pairs,
  take,
  which,
)


def test_batches_are_dicts_of_int32_arrays_of_fixed_shape(register):
  register("pairs", pairs(7))
  spec = Data(task="pairs", lengths=LENGTHS, batch_size=4)
  stream = Reader(spec, row_formats.ENCODER_DECODER).batches()
  for batch in take(stream, 5):
    assert {n: a.shape for n, a in batch.items()} == stream.shapes
    assert {a.dtype for a in batch.values()} == {np.dtype(np.int32)}
  assert stream.shapes["encoder_input_tokens"] == (4, 8)
  assert stream.shapes["decoder_loss_weights"] == (4, 4)


def test_complementary_examples_stay_side_by_side_and_fill_rows():
  import tasks  # noqa: F401 - registers.

  spec = Data(
    task="python_docs_prefix_lm", lengths={"inputs": 32, "targets": 32},
    batch_size=8, pack=True,
  )  # fmt: skip
  for architecture in ("encoder_decoder", "prefix"):
    batches = take(Reader(spec, row_formats.ALL[architecture]).batches(), 20)
    for batch in batches:
      counts = token_counts.count(batch)
      assert token_counts.fractions(counts)["padding_fraction"] == 0
    assert max(b["decoder_segment_ids"].max() for b in batches) == 2


def test_the_stream_depends_on_nothing_but_its_description(register):
  register("noisy", pairs(30), add_noise)
  spec = Data(task="noisy", lengths=LENGTHS, batch_size=4)
  tf.random.set_seed(1)
  first = take(Reader(spec, row_formats.ENCODER_DECODER).batches(), 10)
  tf.random.set_seed(2)
  tf.random.uniform([3])
  assert_equal_batches(
    take(Reader(spec, row_formats.ENCODER_DECODER).batches(), 10), first
  )
  reseeded = dataclasses.replace(spec, seed=1)
  assert which(
    take(Reader(reseeded, row_formats.ENCODER_DECODER).batches(), 10)
  ) != which(first)


def test_two_tasks_over_one_source_differ_in_order_and_noise(register):
  for name in ("one", "two"):
    register(name, pairs(30), add_noise)

  def read(task, shuffle):
    spec = Data(
      task=task, lengths=LENGTHS, batch_size=30, shuffle=shuffle, num_epochs=1
    )
    return take(Reader(spec, row_formats.ENCODER_DECODER).batches(), 1)

  assert which(read("one", True)) != which(read("two", True))
  (one,), (two,) = read("one", False), read("two", False)
  noise = [b["encoder_input_tokens"] == 999 for b in (one, two)]
  assert (noise[0] != noise[1]).any()


def test_each_epoch_has_another_order_and_other_noise(register):
  register("noisy", pairs(40), add_noise)
  spec = Data(
    task="noisy", lengths=LENGTHS, batch_size=20, shuffle=False, num_epochs=2
  )
  epochs = take(Reader(spec, row_formats.ENCODER_DECODER).batches(), 4)
  noise = [b["encoder_input_tokens"] == 999 for b in epochs]
  assert (noise[0] != noise[2]).any() and (noise[1] != noise[3]).any()
  shuffled = dataclasses.replace(spec, shuffle=True)
  order = which(
    take(Reader(shuffled, row_formats.ENCODER_DECODER).batches(), 4)
  )
  assert sorted(order) == sorted(2 * list(range(10, 50)))
  assert order[:40] != order[40:]


def test_two_streams_share_the_examples_between_them(register):
  # The trap: with seeds of their own, both would take every second example of
  # another order each. Some would come twice, and some never.
  register("shuffled", shuffled_pairs(40))
  spec = Data(
    task="shuffled", lengths=LENGTHS, batch_size=8, shuffle=False,
    num_streams=2,
  )  # fmt: skip
  seen = []
  for index in range(2):
    stream = Reader(spec, row_formats.ENCODER_DECODER).batches(
      process_index=index, process_count=2
    )
    assert stream.shapes["encoder_positions"] == (4, 8)
    seen += which(take(stream, 5))
  assert seen != sorted(seen)
  assert sorted(seen) == list(range(10, 50))


def test_streams_draw_noise_of_their_own(register):
  def same(split, shuffle_files, seed=None):
    pair = {"inputs": tf.fill([8], 5), "targets": tf.fill([1], 5)}
    return tf.data.Dataset.from_tensors(pair).repeat(8)

  register("same", same, add_noise)
  spec = Data(
    task="same", lengths=LENGTHS, batch_size=8, shuffle=False, num_streams=2
  )
  inputs = [
    next(
      Reader(spec, row_formats.ENCODER_DECODER).batches(
        process_index=index, process_count=2
      )
    )["encoder_input_tokens"]
    for index in range(2)
  ]
  assert (inputs[0] != inputs[1]).any()


@pytest.mark.parametrize("pack", [True, False])
def test_evaluation_counts_every_example_once(register, pack):
  register("pairs", pairs(23))
  spec = Data(
    task="pairs",
    lengths=LENGTHS,
    batch_size=4,
    num_epochs=1,
    shuffle=False,
    pack=pack,
  )
  whole = list(Reader(spec, row_formats.ENCODER_DECODER).batches())
  assert sum(token_counts.count(b)["examples"] for b in whole) == 23
  assert which(whole) == list(range(10, 33))
  padding = whole[-1]["decoder_segment_ids"].sum(axis=1) == 0
  assert padding.sum() == (-len(_used_rows(whole))) % 4
  for name, value in whole[-1].items():
    assert not value[padding].any(), name
  # Three batches of two rows, or two of them: the same for each process.
  shares = [
    list(
      Reader(spec, row_formats.ENCODER_DECODER).batches(
        process_index=index, process_count=2
      )
    )
    for index in range(2)
  ]
  assert len(shares[0]) == len(shares[1]) == len(whole)
  for batch, first, second in zip(whole, *shares, strict=True):
    for name, value in batch.items():
      joined = np.concatenate([first[name], second[name]])
      np.testing.assert_array_equal(joined, value)


def _used_rows(batches):
  return [row for b in batches for row in b["decoder_segment_ids"] if row.any()]


def test_evaluation_may_stop_early(register):
  register("pairs", pairs(23))
  spec = Data(
    task="pairs", lengths=LENGTHS, batch_size=4, num_epochs=1, num_batches=2
  )
  assert len(list(Reader(spec, row_formats.ENCODER_DECODER).batches())) == 2


def test_a_finite_mixture_gives_every_example_of_every_task(register):
  register("short", pairs(3))
  register("long", pairs(20, start=100))
  seqio.MixtureRegistry.add("both", [("short", 9), ("long", 1)])
  everything = [*range(100, 120), *range(10, 13)]
  try:
    for shuffle in (False, True):
      spec = Data(
        task="both",
        lengths=LENGTHS,
        batch_size=4,
        num_epochs=1,
        shuffle=shuffle,
      )
      found = which(Reader(spec, row_formats.ENCODER_DECODER).batches())
      assert sorted(found) == sorted(everything)
      assert (found == everything) == (not shuffle)
  finally:
    seqio.MixtureRegistry.remove("both")


def test_an_endless_mixture_keeps_its_rates(register):
  register("rare", pairs(3))
  register("common", pairs(20, start=100))
  seqio.MixtureRegistry.add("both", [("rare", 1), ("common", 3)])
  try:
    spec = Data(task="both", lengths=LENGTHS, batch_size=100)
    found = which(take(Reader(spec, row_formats.ENCODER_DECODER).batches(), 4))
  finally:
    seqio.MixtureRegistry.remove("both")
  # Four standard deviations of 400 draws at 1/4.
  assert abs(np.mean(np.array(found) < 100) - 0.25) < 0.09


def test_mixtures_of_mixtures_keep_rates_that_are_functions(register):
  for i, name in enumerate(("a", "b", "c")):
    register(name, pairs(7, start=10 + 100 * i))
  size = {"a": 30.0, "b": 10.0}
  mixtures = seqio.MixtureRegistry
  mixtures.add("inner", ["a", "b"], default_rate=lambda task: size[task.name])
  mixtures.add("outer", [("inner", 1), ("c", lambda task: 3.0)])
  try:
    spec = Data(task="outer", lengths=LENGTHS, batch_size=200)
    found = np.array(
      which(take(Reader(spec, row_formats.ENCODER_DECODER).batches(), 4))
    )
  finally:
    mixtures.remove("outer")
    mixtures.remove("inner")
  counts = np.bincount(found // 100, minlength=3)
  expected = 800 * np.array([3 / 4, 1 / 4, 3]) / 4
  assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3


def test_natural_text_loses_its_end(register):
  register("long", long_pair)
  spec = Data(
    task="long", lengths={"inputs": 4, "targets": 3}, batch_size=1, num_epochs=1
  )
  (batch,) = Reader(spec, row_formats.ENCODER_DECODER).batches()
  assert batch["encoder_input_tokens"].tolist() == [[10, 11, 12, 13]]
  assert batch["decoder_target_tokens"].tolist() == [[50, 51, 52]]
  # Where a row is shorter than both together, the inputs give way.
  spec = dataclasses.replace(
    spec, lengths={"inputs": 4, "targets": 3, "decoder": 5}
  )
  (batch,) = Reader(spec, row_formats.PREFIX).batches()
  assert batch["decoder_target_tokens"].tolist() == [[10, 11, 50, 51, 52]]


def test_aligned_features_take_one_length(register):
  def aligned(split, shuffle_files, seed=None):
    names = ("inputs", "targets", "weights")
    return tf.data.Dataset.from_tensors(dict.fromkeys(names, tf.range(3)))

  register("mlm", aligned, features=("inputs", "targets", "weights"))
  spec = Data(task="mlm", lengths={"inputs": 4}, batch_size=2)
  batch = next(Reader(spec, row_formats.ENCODER).batches())
  assert batch["encoder_target_tokens"].shape == (2, 4)
  with pytest.raises(ValueError, match="must be equal, but are"):
    Reader(
      dataclasses.replace(spec, lengths={"inputs": 4, "targets": 5}),
      row_formats.ENCODER,
    )
  with pytest.raises(ValueError, match="task mlm: .*a decoder could copy"):
    Reader(spec, row_formats.CAUSAL)


def test_vocabularies_must_be_one(register):
  other = seqio.Feature(seqio.PassThroughVocabulary(size=7))
  register("two", pairs(3), targets=other)
  with pytest.raises(ValueError, match=r"inputs of two has .*1000.* has .*=7"):
    resolve("two").vocab_size  # noqa: B018
  register("one", pairs(3))
  assert resolve("one").vocabulary == VOCABULARY
  assert resolve("one").vocab_size == 1000


def test_a_vocabulary_is_known_by_its_digest(register, tmp_path):
  model = os.path.join(
    os.path.dirname(seqio.__file__),
    "test_data/sentencepiece/sentencepiece.model",
  )
  copy = shutil.copy(model, tmp_path / "copy.model")
  vocabularies = {
    "here": seqio.SentencePieceVocabulary(model, extra_ids=10),
    "there": seqio.SentencePieceVocabulary(copy, extra_ids=10),
    "larger": seqio.SentencePieceVocabulary(model, extra_ids=20),
    "bytes": seqio.ByteVocabulary(extra_ids=10),
    "numbers": VOCABULARY,
  }
  digests = {}
  for name, vocabulary in vocabularies.items():
    feature = seqio.Feature(vocabulary)
    register(name, pairs(3), inputs=feature, targets=feature)
    digests[name] = resolve(name).vocabulary_digest
  assert digests["here"] == digests["there"]
  assert len(set(digests.values())) == 4
