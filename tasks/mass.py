"""Implements MASS's objective (Song et al. 2019, arXiv:1905.02450).

  window    [a b c d e f g h]
  inputs    [a b M M M M g h $]
  targets   [c d e f $]

One span, half of the window, is masked, with one mask per token; the decoder
predicts the span (section 3.1). M is <extra_id_0>; as in BERT, a fraction of
the masks is instead a random token or the original one. $ is EOS.
"""

from __future__ import annotations

import dataclasses

import seqio
import tensorflow as tf

from t5x_lite import checks
from tasks import metrics, spans, vocabularies, windows


@dataclasses.dataclass(frozen=True, kw_only=True)
class MASS(windows.Objective):
  """Masks one span of a window; the targets are the span.

  Attributes:
    noise_density: the span's length as a fraction of the window.
    mask_fraction: the fraction of the span's tokens that become the mask.
    random_fraction: the fraction of the span's tokens that become a random
      token; the rest is unchanged.
  """

  name = "mass"
  metric_fns = (metrics.continuation,)

  noise_density: checks.Inside = 0.5
  mask_fraction: checks.Fraction = 0.8
  random_fraction: checks.Fraction = 0.1

  def __post_init__(self):
    checks.fields(self)
    windows.check_fractions(self.mask_fraction, self.random_fraction)

  def window_tokens(self, lengths, vocabulary: seqio.Vocabulary) -> int:
    inputs, targets = lengths
    vocabularies.check_sentinels(vocabulary, 1, what="mass's mask")
    return windows.longest(
      inputs - 1,
      lambda window: spans.fraction_of(window, self.noise_density) < targets,
      f"mass of {inputs} inputs and {targets} targets at noise_density "
      f"{self.noise_density} leaves nothing to mask: set more",
    )

  def corrupt(
    self, tokens: tf.Tensor, seed: tf.Tensor, vocabulary: seqio.Vocabulary
  ) -> dict[str, tf.Tensor]:
    """Makes an example from a window: "inputs" and "targets" with EOS."""
    seeds = tf.random.experimental.stateless_split(seed, 3)
    size = tf.size(tokens)
    length = spans.fraction_of(size, self.noise_density)
    span = spans.place(size, length[tf.newaxis], seed=seeds[0])
    noised = vocabularies.noise_tokens(
      tokens,
      vocabulary,
      mask_fraction=self.mask_fraction,
      random_fraction=self.random_fraction,
      seeds=seeds[1:],
    )
    inputs = tf.where(spans.covers(span, size), noised, tokens)
    targets = spans.take(tokens, span).values
    return windows.end(vocabulary, inputs=inputs, targets=targets)
