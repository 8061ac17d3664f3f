"""Implements CM3, causally masked language modelling (Aghajanyan et al. 2022).

  window    [a b c d e f g]
  targets   [a <X> e f <Y> <X> b c d $ <Y> g $]
  weights   [1  0  1 1  0   0  1 1 1 1  0  1 1]

Spans are moved to the end, each between its sentinel and EOS ($), so that a
causal decoder sees the text on both sides before it predicts them. Sentinels
have no loss. arXiv:2201.07520, section 3.1.
"""

from __future__ import annotations

import dataclasses

import seqio
import tensorflow as tf

from t5x_lite import checks
from t5x_lite.data import sentinels as text_lib
from tasks import spans, vocabularies, windows

# Tokens added per span: two sentinels (at its old and new place) and EOS.
_TOKENS_PER_SPAN = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class CM3(windows.Objective):
  """Moves spans of a window to its end.

  The window length leaves room for the 3 extra tokens of one span. With n
  spans, the last 3 * (n - 1) tokens of the window are dropped.

  Attributes:
    mean_spans: the mean of the Poisson distribution of the number of spans.
    max_spans: the number of spans is clipped to 1 ... max_spans.
  """

  name = "cm3"
  texts = {"targets": True}
  numbers = {"weights": 2}
  end_documents = True

  mean_spans: checks.NotNegative = 1.0
  max_spans: checks.Count = 16

  def __post_init__(self):
    checks.fields(self)

  def window_tokens(self, lengths, vocabulary: seqio.Vocabulary) -> int:
    (length,) = lengths
    # At least one token of text per span.
    needed = (_TOKENS_PER_SPAN + 1) * self.max_spans
    if length < needed:
      raise ValueError(
        f"cm3 of {length} targets has no room for max_spans "
        f"({self.max_spans}): set {needed} targets or fewer spans"
      )
    what = f"cm3 of max_spans {self.max_spans}"
    vocabularies.check_sentinels(vocabulary, self.max_spans, what=what)
    return length - _TOKENS_PER_SPAN

  def corrupt(
    self, tokens: tf.Tensor, seed: tf.Tensor, vocabulary: seqio.Vocabulary
  ) -> dict[str, tf.Tensor]:
    """Makes an example from a window."""
    seeds = tf.random.experimental.stateless_split(seed, 2)
    size = tf.size(tokens)
    count = tf.random.stateless_poisson(
      [], seeds[0], self.mean_spans, dtype=tf.int32
    )
    # The last window of a finite dataset may be short.
    count = tf.clip_by_value(
      count, 1, tf.minimum(self.max_spans, size // 4 + 1)
    )
    size -= _TOKENS_PER_SPAN * (count - 1)
    tokens = tokens[:size]
    found = draw_spans(size, count, seed=seeds[1])
    ids = tf.constant(text_lib.sentinel_ids(vocabulary), tf.int32)[:count]
    ends = tf.fill([count, 1], text_lib.require_eos(vocabulary, "cm3"))
    moved = [ids[:, tf.newaxis], spans.take(tokens, found), ends]
    targets = [
      spans.replace(tokens, found, ids), tf.concat(moved, axis=1).values
    ]  # fmt: skip
    targets = tf.concat(targets, axis=0)
    return {
      "targets": targets,
      "weights": tf.cast(
        tf.reduce_all(targets[:, tf.newaxis] != ids, axis=1), tf.int32
      ),
    }


def draw_spans(size: tf.Tensor, count: tf.Tensor, *, seed) -> spans.Spans:
  """Draws `count` spans that do not overlap.

  The ends of the spans are 2 * count uniform cuts, sorted and paired. This has
  the distribution of pairs of uniform cuts, redrawn until none overlap.
  """
  cuts = tf.sort(
    tf.random.stateless_uniform([2 * count], seed, 0, size + 1, tf.int32)
  )
  return spans.Spans(cuts[::2], cuts[1::2] - cuts[::2])
