"""Denoising of single tokens: T5's BERT- and MASS-style baselines.

  text      [a b c d e f]       noise  . x . . x x
  inputs    [a X c d X r $]     X is <extra_id_0>, r a random token
  targets   [a b c d e f $]     the whole text; $ is EOS

Each token is noise with the same probability, whatever the others are. Without
random tokens this is the MASS-style row of table 3 in Raffel et al. 2020,
arXiv:1910.10683, and with a tenth of them the BERT-style one. The noise is,
seed for seed, that of `denoise` in the public package t5 0.9.4 with
`iid_noise_mask` and `noise_token_to_random_token_or_sentinel`, whose random
tokens come from the whole vocabulary, its sentinels among them.
"""

from __future__ import annotations

import dataclasses

import seqio
import tensorflow as tf

from t5x_lite.data import sentinels as text_lib
from tasks import vocabularies, windows


@dataclasses.dataclass(frozen=True, kw_only=True)
class IIDDenoising(windows.Objective):
  """Replaces single tokens; the targets are the whole window.

  Attributes:
    noise_density: the probability of a token to be replaced.
    random_fraction: the share of the replaced that becomes a random token; the
      others become <extra_id_0>.
  """

  name = "iid_denoising"
  min_window = 1

  noise_density: float = 0.15
  random_fraction: float = 0.0

  def __post_init__(self):
    windows.check_density(self.noise_density)
    if not 0 <= self.random_fraction <= 1:
      raise ValueError(
        f"random_fraction ({self.random_fraction}) must be from 0 to 1"
      )

  def window_tokens(self, lengths, vocabulary: seqio.Vocabulary) -> int:
    vocabularies.check_sentinels(vocabulary, 1, what=f"{self.name}'s mask")
    return windows.shorter(lengths, self.name) - 1

  def corrupt(
    self, tokens: tf.Tensor, seed: tf.Tensor, vocabulary: seqio.Vocabulary
  ) -> dict[str, tf.Tensor]:
    """Makes an example of a window: "inputs" and "targets", each with EOS."""
    # T5's six seeds: two for the mask, two for the inputs, two of no use here.
    seeds = tf.random.experimental.stateless_split(seed, 6)

    def draw(index):
      return tf.random.stateless_uniform(tf.shape(tokens), seeds[index])

    random_ids = tf.random.stateless_uniform(
      tf.shape(tokens),
      seeds[3],
      minval=3,  # T5's reserved ids: pad, EOS and unk.
      maxval=vocabulary.vocab_size,
      dtype=tf.int32,
    )
    mask = text_lib.sentinel_ids(vocabulary)[0]
    noise = tf.where(draw(2) < self.random_fraction, random_ids, mask)
    inputs = tf.where(draw(0) < self.noise_density, noise, tokens)
    return windows.end(vocabulary, inputs=inputs, targets=tokens)
