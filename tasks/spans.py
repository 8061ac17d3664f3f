"""Draws, replaces and extracts spans of tokens, for several objectives.

  tokens    [a b c d e f g]      spans  starts [1 4], lengths [2 1]
  replace   [a X d Y f g]        by the ids [X Y]
  take      [[b c] [e]]

A span may be empty; `replace` then inserts an id.
"""

from __future__ import annotations

from typing import NamedTuple

import seqio
import tensorflow as tf


class Spans(NamedTuple):
  """Holds spans that do not overlap; both int32 [m]."""

  starts: tf.Tensor
  lengths: tf.Tensor


def draw_lengths(
  total: tf.Tensor, mean: float, most: tf.Tensor, *, least: int, seeds
) -> tf.Tensor:
  """Draws lengths from a Poisson distribution until they sum to `total`.

  The last length drawn is truncated or, if there are `most` lengths, extended
  to reach the total. The lengths are then shuffled.

  Args:
    total: int32 scalar, at least 1.
    mean: the mean of the distribution, at least 1.
    most: int32 scalar, the maximum number of lengths.
    least: the minimum length: 0, or 1 to drop zeros.
    seeds: [2, 2].

  Returns:
    int32 [m], each at least `least`.
  """
  # At mean 1 the expected sum of these draws is 2 * total + 32, so that they
  # practically always reach the total.
  draws = tf.random.stateless_poisson(
    [2 * total + 32], seeds[0], mean, dtype=tf.int32
  )
  draws = tf.boolean_mask(draws, draws >= least)
  begins = tf.cumsum(draws, exclusive=True)
  count = tf.reduce_sum(tf.cast(begins < total, tf.int32))
  count = tf.minimum(count, most)
  last = total - begins[count - 1]
  lengths = tf.concat([draws[: count - 1], [last]], axis=0)
  return seqio.stateless_shuffle(lengths, seeds[1])


def place(size: tf.Tensor, lengths: tf.Tensor, *, seed) -> Spans:
  """Draws positions for spans of the given lengths in `size` tokens, uniformly.

  Spans keep the order of their lengths, with at least one token between two.
  """
  count = tf.size(lengths)
  kept = size - tf.reduce_sum(lengths)
  order = tf.argsort(tf.random.stateless_uniform([kept + 1], seed))
  gaps = tf.sort(order[:count])
  return Spans(gaps + tf.cumsum(lengths, exclusive=True), lengths)


def covers(spans: Spans, size: tf.Tensor) -> tf.Tensor:
  """Returns which of `size` tokens are in a span: bool [size]."""
  ends = spans.starts + spans.lengths
  places = tf.concat([spans.starts, ends], axis=0)
  ones = tf.ones_like(spans.starts)
  changes = tf.scatter_nd(
    places[:, tf.newaxis], tf.concat([ones, -ones], axis=0), [size + 1]
  )
  return tf.cumsum(changes)[:-1] > 0


def replace(tokens: tf.Tensor, spans: Spans, ids: tf.Tensor) -> tf.Tensor:
  """Replaces each span with one of the ids [m]."""
  size = tf.size(tokens)
  kept = tf.cast(tf.where(~covers(spans, size))[:, 0], tf.int32)
  # Sorts a span's id before the token at the span's start.
  order = tf.concat([2 * spans.starts, 2 * kept + 1], axis=0)
  merged = tf.concat([ids, tf.gather(tokens, kept)], axis=0)
  return tf.gather(merged, tf.argsort(order, stable=True))


def take(tokens: tf.Tensor, spans: Spans) -> tf.RaggedTensor:
  """Returns the tokens of each span: [m, (length)]."""
  ends = spans.starts + spans.lengths
  return tf.gather(tokens, tf.ragged.range(spans.starts, ends))


def shuffle(spans: Spans, *, seed) -> Spans:
  """Shuffles the spans."""
  order = tf.argsort(tf.random.stateless_uniform(tf.shape(spans.starts), seed))
  return Spans(*(tf.gather(part, order) for part in spans))


def fraction_of(size: tf.Tensor, density: float) -> tf.Tensor:
  """Returns round(density * size), at least 1 and at most size - 1."""
  count = tf.round(density * tf.cast(size, tf.float32))
  return tf.clip_by_value(tf.cast(count, tf.int32), 1, tf.maximum(size - 1, 1))
