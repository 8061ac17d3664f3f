"""Implements i.i.d. denoising: T5's BERT- and MASS-style baselines.

  text      [a b c d e f]       noise  . x . . x x
  inputs    [a X c d X r $]     X is <extra_id_0>, r a random token
  targets   [a b c d e f $]     the original text; $ is EOS

Each token is noise independently, with the same probability. With
random_fraction 0 this is the MASS-style row of table 3 in Raffel et al. 2020,
arXiv:1910.10683, and with 0.1 the BERT-style row. For equal seeds the noise
equals that of `denoise` in the package t5 0.9.4, with `iid_noise_mask` and
`noise_token_to_random_token_or_sentinel`. As there, random tokens are drawn
from the full vocabulary, including sentinels.
"""

from __future__ import annotations

import dataclasses

import seqio
import tensorflow as tf

from t5x_lite import checks
from t5x_lite.data import sentinels as text_lib
from tasks import vocabularies, windows


@dataclasses.dataclass(frozen=True, kw_only=True)
class IIDDenoising(windows.Objective):
  """Replaces single tokens; the targets are the original window.

  Attributes:
    noise_density: the probability that a token is replaced.
    random_fraction: the fraction of replaced tokens that become a random token;
      the others become <extra_id_0>.
  """

  name = "iid_denoising"
  min_window = 1

  noise_density: checks.Inside = 0.15
  random_fraction: checks.Fraction = 0.0

  def __post_init__(self):
    checks.fields(self)

  def window_tokens(self, lengths, vocabulary: seqio.Vocabulary) -> int:
    vocabularies.check_sentinels(vocabulary, 1, what=f"{self.name}'s mask")
    return windows.shorter(lengths, self.name) - 1

  def corrupt(
    self, tokens: tf.Tensor, seed: tf.Tensor, vocabulary: seqio.Vocabulary
  ) -> dict[str, tf.Tensor]:
    """Makes an example from a window: "inputs" and "targets" with EOS."""
    # As in T5, six seeds: two for the mask, two for the inputs, two unused.
    seeds = tf.random.experimental.stateless_split(seed, 6)

    def draw(index):
      return tf.random.stateless_uniform(tf.shape(tokens), seeds[index])

    random_ids = tf.random.stateless_uniform(
      tf.shape(tokens),
      seeds[3],
      minval=3,  # Excludes T5's pad, EOS and unk.
      maxval=vocabulary.vocab_size,
      dtype=tf.int32,
    )
    mask = text_lib.sentinel_ids(vocabulary)[0]
    noise = tf.where(draw(2) < self.random_fraction, random_ids, mask)
    inputs = tf.where(draw(0) < self.noise_density, noise, tokens)
    return windows.end(vocabulary, inputs=inputs, targets=tokens)
