"""Span corruption: T5's objective (Raffel et al. 2020, arXiv:1910.10683).

  window    [a b c d e f g h]        noise  . . x x . . . x
  inputs    [a b <X> e f g <Y> $]
  targets   [<X> c d <Y> h $]

<X>, <Y>, ... are the vocabulary's last ids, descending; $ is EOS. The targets
end without a closing sentinel, or are the whole text, as in the paper's table
of denoising objectives:

  targets   [a b c d e f g h $]        with whole_text

`random_spans_noise_mask` and
`random_spans_helper` have the names, the signatures and, seed for seed, the
results of t5.data.preprocessors in the public package t5 0.9.4.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite.data import sentinels as text_lib
from tasks import metrics, vocabularies, windows


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCorruption(windows.Objective):
  """Replaces spans of a window by sentinels; the targets are the spans.

  The window is as long as fills `inputs` exactly: 512 inputs, density 0.15 and
  mean span 3 make windows of 568 tokens and 114 targets.

  Attributes:
    noise_density: the share of tokens that is replaced.
    mean_span: the mean length of a replaced span, in tokens.
    end_documents: whether EOS stands between the documents of a window. T5
      joins them without: an EOS within the targets would end decoding early.
    random_roll: whether the mask is rotated by a random offset. T5's ends with
      noise always, so that a single long span is the end of the text. A span
      may then fall in two, for which the plan leaves room. As in T5, targets
      that begin with noise have no sentinel before it.
    whole_text: whether the targets are the whole window, not its spans.
  """

  name = "span_corruption"

  noise_density: float = 0.15
  mean_span: float = 3.0
  end_documents: bool = False
  random_roll: bool = False
  whole_text: bool = False

  @property
  def metric_fns(self):
    return () if self.whole_text else (metrics.infilling,)

  @property
  def postprocess_fn(self):
    return None if self.whole_text else metrics.spans

  def __post_init__(self):
    windows.check_density(self.noise_density)
    windows.check_mean_span(self.mean_span)

  def corrupt(
    self, tokens: tf.Tensor, seed: tf.Tensor, vocabulary: seqio.Vocabulary
  ) -> dict[str, tf.Tensor]:
    """Makes an example of a window: "inputs" and "targets", each with EOS."""
    # Six seeds, of which T5 too takes the first two for the mask.
    seeds = tf.random.experimental.stateless_split(seed, 6)
    noise = random_spans_noise_mask(
      tf.size(tokens),
      self.noise_density,
      seeds[:2],
      mean_noise_span_length=self.mean_span,
      random_roll=self.random_roll,
    )
    sentinels = tf.constant(text_lib.sentinel_ids(vocabulary), tf.int32)
    inputs = _fold_spans(tokens, noise, sentinels)
    targets = tokens
    if not self.whole_text:
      targets = _fold_spans(tokens, ~noise, sentinels)
    return windows.end(vocabulary, inputs=inputs, targets=targets)

  def plan(self, inputs_length: int) -> SpanPlan:
    """Says what a window for `inputs_length` is made of.

    Raises:
      ValueError: there is no such window.
    """
    given = (
      f"span_corruption of {inputs_length} inputs at noise_density "
      f"{self.noise_density} and mean_span {self.mean_span}"
    )
    # A sentinel, a token beside it, and EOS.
    window = 0
    if inputs_length >= 3:
      window, _ = random_spans_helper(
        inputs_length, self.noise_density, self.mean_span, 1, 1
      )
      # The helper forgets that a mask has a span at least, and rounds ties in
      # float64 where the mask does in float32: its window may be too long.
      while window >= 2 and not self._fills(window, inputs_length):
        window -= 1
    if window < 2:
      raise ValueError(f"{given} leaves nothing to corrupt: set more inputs")
    plan = self._plan(window)
    if plan.spans > min(plan.noise, window - plan.noise):
      raise ValueError(
        f"{given} makes {plan.spans} spans of {plan.noise} noise and "
        f"{window - plan.noise} other tokens, less than one token a span: "
        "raise mean_span or move noise_density towards 0.5"
      )
    return plan

  def fits(self, window: int, inputs_length: int, targets_length: int) -> bool:
    """Tells whether a window of this many tokens makes an example that fits."""
    plan = self._plan(window)
    has_room = plan.spans <= min(plan.noise, window - plan.noise)
    is_short = plan.inputs <= inputs_length and plan.targets <= targets_length
    return has_room and is_short

  def num_sentinels(self, window: int) -> int:
    """Returns how many sentinels an example of such a window may need."""
    return self._plan(window).sentinels

  def _fills(self, window: int, inputs_length: int) -> bool:
    plan = self._plan(window)
    # T5's exception, as in `random_spans_helper`.
    is_half = self.noise_density == 0.5 and not self.whole_text
    is_even = not is_half or plan.targets <= inputs_length
    return plan.inputs <= inputs_length and is_even

  def _plan(self, window: int) -> SpanPlan:
    noise = round(np.float32(window) * np.float32(self.noise_density))
    noise = min(max(noise, 1), window - 1)
    spans = max(round(np.float32(noise) / np.float32(self.mean_span)), 1)
    sentinels = spans + self.random_roll
    return SpanPlan(
      window=window,
      noise=noise,
      spans=spans,
      sentinels=sentinels,
      inputs=window - noise + sentinels + 1,
      targets=1 + (window if self.whole_text else noise + sentinels),
    )

  def window_tokens(self, lengths, vocabulary: seqio.Vocabulary) -> int:
    inputs_length, targets_length = lengths
    plan = self.plan(inputs_length)
    given = (
      f"span_corruption of {inputs_length} inputs at noise_density "
      f"{self.noise_density} and mean_span {self.mean_span}"
    )
    if plan.targets > targets_length:
      raise ValueError(
        f"{given} makes {plan.targets} targets, more than the "
        f"{targets_length} given: set targets to {plan.targets} or more"
      )
    vocabularies.check_sentinels(vocabulary, plan.sentinels, what=given)
    return plan.window


@dataclasses.dataclass(frozen=True)
class SpanPlan:
  """Counts the tokens of one example; `inputs` and `targets` count EOS.

  With a random roll there may be a span, and so a sentinel, less.
  """

  window: int
  noise: int
  spans: int
  sentinels: int
  inputs: int
  targets: int


def _fold_spans(
  tokens: tf.Tensor, mask: tf.Tensor, sentinels: tf.Tensor
) -> tf.Tensor:
  """Replaces the runs of masked tokens by one sentinel each, in their order."""
  starts = mask & ~tf.concat([[False], mask[:-1]], axis=0)
  number = tf.cumsum(tf.cast(starts, tf.int32)) - 1
  ids = tf.gather(sentinels, tf.maximum(number, 0))  # -1 before the first
  return tf.where(starts, ids, tokens)[starts | ~mask]


def random_spans_noise_mask(
  length,
  noise_density,
  seeds,
  mean_noise_span_length=3.0,
  random_roll=False,
):
  """Draws which tokens are noise: spans after T5.

  round(length * noise_density) tokens are noise (at least one, and one is
  not), in round(noise / mean_noise_span_length) spans (at least one). The
  lengths of the spans, and of the gaps before each, are two compositions drawn
  uniformly: the mask begins with a gap and ends with noise.

  Args:
    length: int32 scalar, tokens of the window.
    noise_density: the share of noise; 0.0 gives no noise.
    seeds: int32 [2, 2], one seed for the noise and one for the gaps.
    mean_noise_span_length: the mean length of a span, in tokens.
    random_roll: whether to rotate the mask by a random offset. Without it a
      single span always lies at the end.

  Returns:
    bool [length], true on noise.
  """
  if noise_density == 0.0:
    return tf.zeros([length], tf.bool)
  # A window of one token is drawn as one of two, and then shortened.
  size = tf.maximum(tf.cast(length, tf.int32), 2)
  num_noise = _round(tf.cast(size, tf.float32) * noise_density)
  num_noise = tf.clip_by_value(num_noise, 1, size - 1)
  num_spans = _round(tf.cast(num_noise, tf.float32) / mean_noise_span_length)
  num_spans = tf.maximum(num_spans, 1)

  spans = _composition(num_noise, num_spans, seeds[0])
  gaps = _composition(size - num_noise, num_spans, seeds[1])
  lengths = tf.reshape(tf.stack([gaps, spans], axis=1), [-1])
  # Noise and gaps change at the cumulated lengths; the last is the end.
  changes = tf.scatter_nd(
    tf.cumsum(lengths)[:-1, tf.newaxis], tf.ones_like(lengths[1:]), [size]
  )
  mask = tf.cast(tf.cumsum(changes) % 2, tf.bool)[:length]
  if random_roll:
    seed = [seeds[0][0] + seeds[1][1], seeds[0][1] - seeds[1][0]]
    offset = tf.random.stateless_uniform(
      [1], seed=seed, minval=0, maxval=size, dtype=tf.int32
    )
    mask = tf.roll(mask, shift=offset[0], axis=0)
  return mask


def _composition(total: tf.Tensor, parts: tf.Tensor, seed) -> tf.Tensor:
  """Draws `parts` positive integers that sum to `total`, uniformly.

  Of the total - 1 places between items, parts - 1 are drawn as borders.
  """
  is_border = seqio.stateless_shuffle(tf.range(total - 1) < parts - 1, seed)
  borders = tf.cast(tf.where(is_border)[:, 0], tf.int32) + 1
  edges = tf.concat([[0], borders, [total]], axis=0)
  return edges[1:] - edges[:-1]


def _round(x: tf.Tensor) -> tf.Tensor:
  return tf.cast(tf.round(x), tf.int32)


def random_spans_helper(
  inputs_length,
  noise_density,
  mean_noise_span_length,
  extra_tokens_per_span_inputs,
  extra_tokens_per_span_targets,
  verbose=False,
):
  """Plans the raw length that fills the inputs, and the targets it makes.

  Args:
    inputs_length: tokens of the inputs, EOS among them.
    noise_density: the share of tokens that is noise.
    mean_noise_span_length: the mean length of a span of noise.
    extra_tokens_per_span_inputs: sentinels per span in the inputs.
    extra_tokens_per_span_targets: sentinels per span in the targets.
    verbose: whether to print the plan.

  Returns:
    (tokens of the raw text, tokens of the targets with EOS).
  """

  def lengths(raw):
    noise = round(raw * noise_density)
    spans = round(noise / mean_noise_span_length)
    return (
      raw - noise + spans * extra_tokens_per_span_inputs + 1,
      noise + spans * extra_tokens_per_span_targets + 1,
    )

  raw_length = inputs_length - 1
  while lengths(raw_length + 1)[0] <= inputs_length:
    raw_length += 1
  inputs_used, targets_length = lengths(raw_length)
  # T5's exception: at density 0.5 the targets shall not outgrow the inputs.
  if noise_density == 0.5 and targets_length > inputs_used:
    raw_length -= 1
    targets_length -= 1
  if verbose:
    print(f"{raw_length=} {inputs_used=} {targets_length=}")
  return raw_length, targets_length
