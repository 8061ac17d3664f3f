"""Implements BART's denoising objective (Lewis et al. 2020).

  text                   [A b . C d e f .]
  sentence permutation   [C d e f . A b .]
  text infilling         [C X f . A X b .]     spans [d e] and []
  token deletion         [C X . A X b .]
  document rotation      [A X b . C X .]
  inputs                 [A X b . C X . $]
  targets                [A b . C d e f . $]

The enabled steps are applied in this order. X is <extra_id_0>: each span
becomes one X, whatever its length, so the model must predict how many tokens
are missing. $ is EOS. arXiv:1910.13461, section 2.2; the defaults are those of
BART large (section 3.2).
"""

from __future__ import annotations

import dataclasses

import seqio
import tensorflow as tf

from t5x_lite import checks
from t5x_lite.data import sentinels as text_lib
from tasks import mlm, sentences, spans, vocabularies, windows


@dataclasses.dataclass(frozen=True, kw_only=True)
class BART(windows.Objective):
  """Adds noise to a window; the targets are the original window.

  Attributes:
    infilling_density: the fraction of tokens in spans; 0 means no infilling.
    mean_span: the mean of the Poisson distribution of span lengths.
    permute_sentences: whether to shuffle the sentences.
    deletion_density: the fraction of tokens that are deleted.
    rotate: whether to rotate the text so that it begins with a random token.
  """

  name = "bart"
  encode = staticmethod(sentences.encode)

  infilling_density: checks.Share = 0.3
  mean_span: windows.MeanSpan = 3.0
  permute_sentences: bool = True
  deletion_density: checks.Share = 0.0
  rotate: bool = False

  def __post_init__(self):
    checks.fields(self)
    if not (
      self.infilling_density
      or self.deletion_density
      or self.permute_sentences
      or self.rotate
    ):
      raise ValueError(
        "bart without infilling_density, deletion_density, permute_sentences "
        "and rotate does not change the text: set one"
      )

  def window_tokens(self, lengths, vocabulary: seqio.Vocabulary) -> int:
    vocabularies.check_sentinels(vocabulary, 1, what="bart's mask")
    return windows.shorter(lengths, self.name) - 1

  def corrupt(
    self,
    tokens: tf.Tensor,
    seed: tf.Tensor,
    vocabulary: seqio.Vocabulary,
    starts: tf.Tensor,
  ) -> dict[str, tf.Tensor]:
    """Makes an example from a window: "inputs" and "targets" with EOS."""
    seeds = tf.random.experimental.stateless_split(seed, 6)
    inputs = tokens
    if self.permute_sentences:
      inputs = permute_sentences(inputs, starts, seed=seeds[0])
    if self.infilling_density:
      mask = text_lib.sentinel_ids(vocabulary)[0]
      inputs = self._infill(inputs, mask, seeds[1:4])
    if self.deletion_density:
      everywhere = tf.fill(tf.shape(inputs), True)
      gone = mlm.choose(everywhere, self.deletion_density, seed=seeds[4])
      inputs = tf.boolean_mask(inputs, ~gone)
    if self.rotate:
      first = tf.random.stateless_uniform(
        [], seeds[5], 0, tf.maximum(tf.size(inputs), 1), tf.int32
      )
      inputs = tf.roll(inputs, -first, axis=0)
    return windows.end(vocabulary, inputs=inputs, targets=tokens)

  def _infill(self, tokens, mask, seeds):
    size = tf.size(tokens)
    noise = spans.fraction_of(size, self.infilling_density)
    lengths = spans.draw_lengths(
      noise,
      self.mean_span,
      # At most one mask per noise token, so that the inputs are never longer
      # than the text, and at least one token between two masks.
      tf.minimum(noise, size - noise + 1),
      least=0,
      seeds=seeds[:2],
    )
    where = spans.place(size, lengths, seed=seeds[2])
    return spans.replace(tokens, where, tf.fill(tf.shape(lengths), mask))


def permute_sentences(
  tokens: tf.Tensor, starts: tf.Tensor, *, seed
) -> tf.Tensor:
  """Shuffles the sentences of a window."""
  first, lengths = sentences.spans(starts)
  shuffled = spans.shuffle(spans.Spans(first, lengths), seed=seed)
  return spans.take(tokens, shuffled).values
