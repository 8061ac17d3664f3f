"""Spans lie anywhere, apart from each other, and lose no token."""

import collections

import numpy as np
import pytest
import scipy.stats
import seqio
import tensorflow as tf

from tasks import sentences, spans
from tasks.spans import Spans
from tests.tasks.streams import BYTES

TOKENS = tf.range(10, 17)
WORKED = Spans(tf.constant([1, 4]), tf.constant([2, 1]))


def test_worked_example():
  replaced = spans.replace(TOKENS, WORKED, tf.constant([98, 99]))
  assert replaced.numpy().tolist() == [10, 98, 13, 99, 15, 16]
  assert spans.take(TOKENS, WORKED).to_list() == [[11, 12], [14]]
  assert spans.covers(WORKED, 7).numpy().tolist() == [0, 1, 1, 0, 1, 0, 0]


def test_empty_spans_insert_at_any_place_and_at_the_end():
  empty = Spans(tf.constant([0, 3, 7]), tf.constant([0, 2, 0]))
  replaced = spans.replace(TOKENS, empty, tf.constant([97, 98, 99]))
  assert replaced.numpy().tolist() == [97, 10, 11, 12, 98, 15, 16, 99]
  assert spans.take(TOKENS, empty).to_list() == [[], [13, 14], []]


def many(function, count, *arguments):
  """Returns what a function of two seeds or more gives for many."""
  seeds = np.random.default_rng(0).integers(0, 2**31, (count, 4, 2), np.int32)
  dataset = tf.data.Dataset.from_tensor_slices((seeds, *arguments))
  return list(dataset.map(function).as_numpy_iterator())


def test_every_place_is_drawn_alike_and_spans_never_touch():
  lengths = tf.constant([2, 0, 1])
  starts = many(lambda s: spans.place(8, lengths, seed=s[0]).starts, 3000)
  found = collections.Counter(map(tuple, starts))
  # Five tokens are in no span: three of the six gaps around them.
  assert len(found) == 20
  for first, second, third in found:
    assert 0 <= first and first + 2 < second < third and third + 1 <= 8
  assert scipy.stats.chisquare(list(found.values())).pvalue > 1e-3


@pytest.mark.parametrize("least", [0, 1])
def test_lengths_are_poisson_and_sum_to_the_total(least):
  mean, total = 3.0, 60

  def draw(seeds):
    return spans.draw_lengths(total, mean, 1000, least=least, seeds=seeds[:2])

  drawn = many(draw, 400)
  assert all(lengths.sum() == total for lengths in drawn)
  # The last, cut to fit, is one of 20; the others have the distribution.
  counts = np.bincount(np.concatenate(drawn), minlength=20)
  poisson = scipy.stats.poisson(mean).pmf(np.arange(20))
  poisson[:least] = 0
  assert np.abs(counts / counts.sum() - poisson / poisson.sum()).max() < 0.03
  assert min(map(min, drawn)) == least


def test_no_more_lengths_than_are_allowed():
  def draw(seeds):
    return spans.draw_lengths(9, 3.0, 2, least=0, seeds=seeds[:2])

  for lengths in many(draw, 50):
    assert len(lengths) <= 2 and lengths.sum() == 9


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("One. Two, three! Four", ["One. ", "Two, three! ", "Four"]),
    ('He said "Go!" She went.', ['He said "Go!" ', "She went."]),
    ("3.14 is e.g. pi", ["3.14 is e.g. ", "pi"]),
    ("A title\n\nA text", ["A title\n\n", "A text"]),
    ("one", ["one"]),
    ("", []),
  ],
)
def test_sentences_begin_after_an_end_and_white_space(text, expected):
  dataset = tf.data.Dataset.from_tensors({"text": text})
  features = {"targets": seqio.Feature(BYTES)}
  (row,) = sentences.encode(dataset, features).as_numpy_iterator()
  assert row["targets"].tolist() == BYTES.encode(text)
  first = [*np.flatnonzero(row["starts"]), len(row["targets"])]
  found = [
    BYTES.decode(row["targets"][i:j])
    for i, j in zip(first[:-1], first[1:], strict=True)
  ]
  assert found == expected


def test_a_window_begins_a_sentence_wherever_it_was_cut():
  first, lengths = sentences.spans(tf.constant([0, 0, 1, 0]))
  assert (first.numpy().tolist(), lengths.numpy().tolist()) == ([0, 2], [2, 2])
