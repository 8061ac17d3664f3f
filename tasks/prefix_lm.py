"""Implements prefix language modelling: predicts a text's end from its prefix.

  window               [a b c d e f]
  uniform split, at 2  inputs [a b]      targets [c d e f]
  prefix_fraction 2/3  inputs [a b c d]  targets [e f]

Inputs and targets are the two parts of one window; no token is added between
them. As in causal_lm, only the end of a document has EOS.

Uniformly split windows come in pairs, one split at k and the other at n - k, so
that a packed pair fills a row of n inputs and n targets:

  windows   [a b c d e f] [g h i j k l]     n = 6, k = 2
  inputs    [a b][g h i j]
  targets   [c d e f][k l]
"""

from __future__ import annotations

import dataclasses

import seqio
import tensorflow as tf

from t5x_lite import checks
from tasks import metrics, windows


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixLM(windows.Objective):
  """Splits each window in two.

  Attributes:
    prefix_fraction: the prefix's length as a fraction of the window (3/4 in
      UL2's S-denoiser), or None for a length drawn uniformly from 1 to n - 1
      (T5: section 3.2.3 of Raffel et al. 2020, arXiv:1910.10683).
  """

  name = "prefix_lm"
  texts = {"inputs": False, "targets": True}
  end_documents = True
  metric_fns = (metrics.continuation,)

  prefix_fraction: float | None = None

  @property
  def examples_together(self) -> int:
    """Returns how many examples fill a packed row (see tasks/task.py)."""
    return 2 if self.prefix_fraction is None else 1

  def __post_init__(self):
    checks.fields(self)
    fraction = self.prefix_fraction
    if fraction is not None and not 0 < fraction < 1:
      raise ValueError(
        f"prefix_fraction ({fraction}) must be between 0 and 1, or None for a "
        "uniform split"
      )

  def examples(
    self,
    dataset: tf.data.Dataset,
    sequence_length: windows.Lengths,
    output_features: windows.Features,
  ) -> tf.data.Dataset:
    if self.prefix_fraction is not None:
      return super().examples(dataset, sequence_length, output_features)
    lengths = windows.check_lengths(
      sequence_length, *self.texts, objective=self.name
    )
    dataset = windows.cut(dataset, self.window_length(*lengths), min_length=2)
    return windows.unbatch(
      windows.transform(
        dataset.ragged_batch(2), output_features, function=self._corrupt_two
      )
    )

  def corrupt(
    self, tokens: tf.Tensor, seed: tf.Tensor, vocabulary: seqio.Vocabulary
  ) -> dict[str, tf.Tensor]:
    """Makes an example from a window: its two parts."""
    del vocabulary
    prefix = self._draw_prefix(tf.size(tokens), seed)
    return {"inputs": tokens[:prefix], "targets": tokens[prefix:]}

  def _corrupt_two(self, pair, seed, vocabulary):
    del vocabulary
    length = tf.cast(pair.row_lengths(), tf.int32)
    first = self._draw_prefix(length[0], seed)
    prefix = tf.concat([[first], length[1:] - first], axis=0)
    # The last window of a finite dataset may be shorter.
    prefix = tf.clip_by_value(prefix, 1, length - 1)
    is_prefix = tf.ragged.range(length) < prefix[:, tf.newaxis]
    return {
      "inputs": tf.ragged.boolean_mask(pair, is_prefix),
      "targets": tf.ragged.boolean_mask(pair, ~is_prefix),
    }

  def _draw_prefix(self, length: tf.Tensor, seed) -> tf.Tensor:
    if self.prefix_fraction is None:
      # The first of T5's six seeds, to draw the same lengths as T5.
      split_seed = tf.random.experimental.stateless_split(seed, 6)[0]
      return tf.random.stateless_uniform(
        [], seed=split_seed, minval=1, maxval=length, dtype=tf.int32
      )
    prefix = tf.round(self.prefix_fraction * tf.cast(length, tf.float64))
    return tf.clip_by_value(tf.cast(prefix, tf.int32), 1, length - 1)

  def window_length(self, inputs_length: int, targets_length: int) -> int:
    """Returns the longest window whose parts always fit the lengths.

    Raises:
      ValueError: no window fits, or a uniform split could make more targets
        than fit.
    """
    if self.prefix_fraction is None:
      if min(inputs_length, targets_length) < 2:
        raise ValueError(
          "prefix_lm needs at least 2 inputs and 2 targets, got "
          f"{inputs_length} and {targets_length}"
        )
      if targets_length < inputs_length:
        raise ValueError(
          f"prefix_lm splits windows of {inputs_length} tokens uniformly, so "
          f"up to {inputs_length - 1} are targets, more than the "
          f"{targets_length} given: set inputs and targets to one length, or "
          "set prefix_fraction"
        )
      return inputs_length
    return windows.longest(
      inputs_length + targets_length,
      lambda window: self.fits(window, inputs_length, targets_length),
      f"prefix_lm finds no window of two parts for {inputs_length} inputs and "
      f"{targets_length} targets",
    )

  def fits(self, window: int, inputs_length: int, targets_length: int) -> bool:
    """Returns whether the example of a `window` of tokens fits the lengths."""
    if self.prefix_fraction is None:
      return 2 <= window <= 1 + min(inputs_length, targets_length)
    prefix = prefix_length(window, self.prefix_fraction)
    return prefix <= inputs_length and window - prefix <= targets_length

  def num_sentinels(self, window: int) -> int:
    """Returns 0, as this objective needs no sentinels."""
    del window
    return 0

  def window_tokens(self, lengths, vocabulary: seqio.Vocabulary) -> int:
    del vocabulary
    return self.window_length(*lengths)


def prefix_length(length: int, prefix_fraction: float) -> int:
  """Returns round(fraction * length), at least 1 and at most length - 1."""
  return min(max(round(prefix_fraction * length), 1), length - 1)
