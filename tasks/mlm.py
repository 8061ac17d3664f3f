"""Implements masked language modelling, BERT's objective (Devlin et al. 2019).

  window    [a b c d e f $ g]     chosen  . x . . x . . x
  inputs    [a M c d e f $ r]     b masked, e kept, g replaced at random
  targets   [a b c d e f $ g]
  weights   [0 1 0 0 1 0 0 1]

Loss is taken on all chosen positions, including kept and replaced ones; the
feature "weights" marks them. M is <extra_id_0>; $ is EOS at the end of
documents and is never chosen. A converted model's own mask, such as [MASK],
stands in place of <extra_id_0>. arXiv:1810.04805, section 3.1. Masks are drawn
anew in each epoch: RoBERTa's dynamic masking (Liu et al. 2019,
arXiv:1907.11692, section 4.1).
"""

from __future__ import annotations

import dataclasses

import seqio
import tensorflow as tf

from t5x_lite import checks
from tasks import filled, vocabularies, windows


class Aligned(windows.Objective):
  """Defines objectives with inputs, targets and weights of equal length.

  Attributes:
    sentinels: the number of sentinels that the objective needs.
  """

  texts = {"inputs": False, "targets": False}
  numbers = {"weights": 2}
  sized = ("inputs", "targets", "weights")
  end_documents = True
  sentinels = 1

  def window_tokens(self, lengths, vocabulary: seqio.Vocabulary) -> int:
    if len(set(lengths)) > 1 or lengths[0] < 2:
      raise ValueError(
        f"{self.name} needs one length of at least 2 for inputs, targets and "
        f"weights, got {', '.join(map(str, lengths))}"
      )
    self.check_marks(vocabulary)
    return lengths[0]

  def check_marks(self, vocabulary: seqio.Vocabulary) -> None:
    """Checks that a vocabulary has the marks that the objective needs."""
    vocabularies.check_sentinels(vocabulary, self.sentinels, what=self.name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLM(Aligned):
  """Chooses round(noise_density * eligible) tokens of each window.

  Attributes:
    noise_density: the fraction of eligible tokens that are chosen.
    mask_fraction: the fraction of chosen tokens that become the mask.
    random_fraction: the fraction of chosen tokens that become a random token;
      the rest is unchanged.
    whole_words: whether to choose complete words, in random order, up to the
      same number of tokens.
  """

  name = "mlm"
  metric_objs = (filled.MASKS,)

  noise_density: checks.Inside = 0.15
  mask_fraction: checks.Fraction = 0.8
  random_fraction: checks.Fraction = 0.1
  whole_words: bool = False

  def __post_init__(self):
    checks.fields(self)
    windows.check_fractions(self.mask_fraction, self.random_fraction)

  def check_marks(self, vocabulary: seqio.Vocabulary) -> None:
    if getattr(vocabulary, "mask_token", None) is None:
      super().check_marks(vocabulary)

  def corrupt(
    self, tokens: tf.Tensor, seed: tf.Tensor, vocabulary: seqio.Vocabulary
  ) -> dict[str, tf.Tensor]:
    """Makes an example from a window."""
    seeds = tf.random.experimental.stateless_split(seed, 3)
    candidates = eligible(tokens, vocabulary)
    if self.whole_words:
      begins = tf.gather(vocabularies.word_starts(vocabulary), tokens)
      chosen = choose_words(
        candidates, begins, self.noise_density, seed=seeds[0]
      )
    else:
      chosen = choose(candidates, self.noise_density, seed=seeds[0])
    noised = vocabularies.noise_tokens(
      tokens,
      vocabulary,
      mask_fraction=self.mask_fraction,
      random_fraction=self.random_fraction,
      seeds=seeds[1:],
    )
    return {
      "inputs": tf.where(chosen, noised, tokens),
      "targets": tokens,
      "weights": tf.cast(chosen, tf.int32),
    }


def eligible(tokens: tf.Tensor, vocabulary: seqio.Vocabulary) -> tf.Tensor:
  """Returns which tokens may be chosen: not special ids or sentinels."""
  first_id, end_id = vocabularies.ordinary_ids(vocabulary)
  return (tokens >= first_id) & (tokens < end_id)


def choose(candidates: tf.Tensor, density: float, *, seed) -> tf.Tensor:
  """Draws round(density * eligible) eligible positions, at least one.

  Args:
    candidates: bool [n], the eligible positions.
    density: the fraction to draw.
    seed: int32 [2].

  Returns:
    bool [n]; all false if nothing is eligible.
  """
  total = tf.reduce_sum(tf.cast(candidates, tf.int32))
  count = tf.round(density * tf.cast(total, tf.float32))
  count = tf.minimum(tf.maximum(tf.cast(count, tf.int32), 1), total)
  draw = tf.random.stateless_uniform(tf.shape(candidates), seed=seed)
  order = tf.argsort(tf.where(candidates, draw, 1.0), stable=True)
  ones = tf.ones([count], tf.int32)
  hits = tf.scatter_nd(order[:count, tf.newaxis], ones, tf.shape(candidates))
  return tf.cast(hits, tf.bool)


def choose_words(
  candidates: tf.Tensor, begins: tf.Tensor, density: float, *, seed
) -> tf.Tensor:
  """Draws words with up to round(density * eligible) tokens in total.

  At least one word is drawn. A word ends before the next word or before a
  position that is not eligible.

  Args:
    candidates: bool [n], the eligible positions.
    begins: bool [n], where words begin.
    density: the fraction of tokens to draw.
    seed: int32 [2].

  Returns:
    bool [n]; all false if nothing is eligible.
  """
  after = tf.concat([[False], candidates[:-1]], axis=0)
  word = tf.cumsum(tf.cast(candidates & (begins | ~after), tf.int32)) - 1
  words = tf.cast(tf.boolean_mask(word, candidates), tf.int32)
  lengths = tf.math.bincount(words)
  order = tf.argsort(tf.random.stateless_uniform(tf.shape(lengths), seed))
  total = tf.cast(tf.reduce_sum(lengths), tf.float32)
  count = tf.cast(tf.round(density * total), tf.int32)
  is_chosen = tf.cumsum(tf.gather(lengths, order)) <= count
  is_chosen |= tf.range(tf.size(order)) == 0
  chosen = tf.scatter_nd(
    order[:, tf.newaxis], tf.cast(is_chosen, tf.int32), tf.shape(lengths)
  )
  # Positions before the first word have word number -1.
  padded = tf.concat([chosen, [0]], axis=0)
  return (tf.gather(padded, word % tf.size(padded)) > 0) & candidates
