"""Places spans in a text, replaces them and takes them out.

  tokens    [a b c d e f g]      spans  starts [1 4], lengths [2 1]
  replace   [a X d Y f g]        by the ids [X Y]
  take      [[b c] [e]]

A span may be empty: then `replace` inserts. What BART, GLM, MASS, CM3 and
PEGASUS are made of.
"""

from __future__ import annotations

from typing import NamedTuple

import seqio
import tensorflow as tf


class Spans(NamedTuple):
  """Spans of a text, none of which overlap; both int32 [m]."""

  starts: tf.Tensor
  lengths: tf.Tensor


def draw_lengths(
  total: tf.Tensor, mean: float, most: tf.Tensor, *, least: int, seeds
) -> tf.Tensor:
  """Draws lengths from a Poisson distribution until they sum to `total`.

  The last one drawn is cut to fit, or takes all that is missing where there
  are `most` of them; it may stand anywhere.

  Args:
    total: int32 scalar, at least 1.
    mean: of the distribution, at least 1.
    most: int32 scalar, so many lengths at most.
    least: 0, or 1 to draw from the positive lengths alone.
    seeds: [2, 2].

  Returns:
    int32 [m], none of them less than `least`.
  """
  # At mean 1 a third of the draws is 0: twice as many as are needed at most,
  # and some more, always reach the total.
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
  """Draws where spans of these lengths lie in a text of `size` tokens.

  All places are alike, except that two spans have a token between them: of the
  gaps around the tokens that are in no span, some are drawn. The lengths are
  taken in their order.
  """
  count = tf.size(lengths)
  kept = size - tf.reduce_sum(lengths)
  order = tf.argsort(tf.random.stateless_uniform([kept + 1], seed))
  gaps = tf.sort(order[:count])
  return Spans(gaps + tf.cumsum(lengths, exclusive=True), lengths)


def covers(spans: Spans, size: tf.Tensor) -> tf.Tensor:
  """Tells which of `size` tokens lie in a span: bool [size]."""
  ends = spans.starts + spans.lengths
  places = tf.concat([spans.starts, ends], axis=0)
  ones = tf.ones_like(spans.starts)
  changes = tf.scatter_nd(
    places[:, tf.newaxis], tf.concat([ones, -ones], axis=0), [size + 1]
  )
  return tf.cumsum(changes)[:-1] > 0


def replace(tokens: tf.Tensor, spans: Spans, ids: tf.Tensor) -> tf.Tensor:
  """Puts ids [m] in the place of spans."""
  size = tf.size(tokens)
  kept = tf.cast(tf.where(~covers(spans, size))[:, 0], tf.int32)
  # A span's id stands before the token that it begins with.
  order = tf.concat([2 * spans.starts, 2 * kept + 1], axis=0)
  merged = tf.concat([ids, tf.gather(tokens, kept)], axis=0)
  return tf.gather(merged, tf.argsort(order, stable=True))


def take(tokens: tf.Tensor, spans: Spans) -> tf.RaggedTensor:
  """Returns the tokens of each span: [m, (length)]."""
  ends = spans.starts + spans.lengths
  return tf.gather(tokens, tf.ragged.range(spans.starts, ends))


def shuffle(spans: Spans, *, seed) -> Spans:
  """Draws an order of the spans."""
  order = tf.argsort(tf.random.stateless_uniform(tf.shape(spans.starts), seed))
  return Spans(*(tf.gather(part, order) for part in spans))


def share(size: tf.Tensor, density: float) -> tf.Tensor:
  """Returns round(density * size), but 1 at least and `size` - 1 at most."""
  count = tf.round(density * tf.cast(size, tf.float32))
  return tf.clip_by_value(tf.cast(count, tf.int32), 1, tf.maximum(size - 1, 1))
