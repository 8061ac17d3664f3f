"""Implements T5's span corruption (Raffel et al. 2020, arXiv:1910.10683).

  window    [a b c d e f g h]        noise  . . x x . . . x
  inputs    [a b <X> e f g <Y> $]
  targets   [<X> c d <Y> h $]

<X>, <Y>, ... are the vocabulary's last ids, descending; $ is EOS. The targets
have no final sentinel. With whole_text they are the original text, as in the
paper's table of denoising objectives:

  targets   [a b c d e f g h $]

`random_spans_noise_mask` and `random_spans_helper` have the signatures and, for
equal seeds, the results of t5.data.preprocessors in the package t5 0.9.4.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite import checks
from t5x_lite.data import sentinels as text_lib
from tasks import metrics, vocabularies, windows


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCorruption(windows.Objective):
  """Replaces spans of a window with sentinels; the targets are the spans.

  The window's length is chosen to fill `inputs` exactly: 512 inputs, density
  0.15 and mean span 3 need windows of 568 tokens and 114 targets.

  Attributes:
    noise_density: the fraction of tokens that are replaced.
    mean_span: the mean length of a replaced span, in tokens.
    end_documents: whether documents in a window end with EOS. T5's do not: an
      EOS within the targets would end decoding early.
    random_roll: whether to rotate the mask by a random offset. T5's default
      mask always ends with noise, so a single long span is the end of the text.
      The rotation may split a span, for which lengths leave room. As in T5,
      targets that begin with noise have no sentinel before it.
    whole_text: whether the targets are the original window, not the spans.
  """

  name = "span_corruption"

  noise_density: checks.Inside = 0.15
  mean_span: windows.MeanSpan = 3.0
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
    checks.fields(self)

  def corrupt(
    self, tokens: tf.Tensor, seed: tf.Tensor, vocabulary: seqio.Vocabulary
  ) -> dict[str, tf.Tensor]:
    """Makes an example from a window: "inputs" and "targets" with EOS."""
    # As in T5, six seeds, of which the first two are for the mask.
    seeds = tf.random.experimental.stateless_split(seed, 6)
    noise = random_spans_noise_mask(
      tf.size(tokens),
      self.noise_density,
      seeds[:2],
      mean_noise_span_length=self.mean_span,
      random_roll=self.random_roll,
    )
    sentinels = tf.constant(text_lib.sentinel_ids(vocabulary), tf.int32)
    inputs = _replace_spans(tokens, noise, sentinels)
    targets = tokens
    if not self.whole_text:
      targets = _replace_spans(tokens, ~noise, sentinels)
    return windows.end(vocabulary, inputs=inputs, targets=targets)

  def plan(self, inputs_length: int) -> SpanPlan:
    """Returns the plan of the longest window that fits `inputs_length`.

    Raises:
      ValueError: no window fits.
    """
    given = (
      f"span_corruption of {inputs_length} inputs at noise_density "
      f"{self.noise_density} and mean_span {self.mean_span}"
    )
    # The inputs need a sentinel, another token and EOS.
    most = 0
    if inputs_length >= 3:
      most, _ = random_spans_helper(
        inputs_length, self.noise_density, self.mean_span, 1, 1
      )
    # The helper's window may be too long: it allows zero spans where the mask
    # has at least one, and rounds in float64 where the mask uses float32.
    window = windows.longest(
      most,
      lambda window: self._fills(window, inputs_length),
      f"{given} leaves nothing to corrupt: set more inputs",
    )
    plan = self._plan(window)
    if plan.spans > min(plan.noise, window - plan.noise):
      raise ValueError(
        f"{given} makes {plan.spans} spans from {plan.noise} noise and "
        f"{window - plan.noise} other tokens, less than one token per span: "
        "raise mean_span or move noise_density towards 0.5"
      )
    return plan

  def fits(self, window: int, inputs_length: int, targets_length: int) -> bool:
    """Returns whether the example of a `window` of tokens fits the lengths."""
    plan = self._plan(window)
    has_room = plan.spans <= min(plan.noise, window - plan.noise)
    is_short = plan.inputs <= inputs_length and plan.targets <= targets_length
    return has_room and is_short

  def num_sentinels(self, window: int) -> int:
    """Returns the number of sentinels for a `window` of tokens."""
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
  """Holds the numbers of tokens of an example; inputs and targets include EOS.

  With a random roll, `sentinels` is an upper bound: it may be one less.
  """

  window: int
  noise: int
  spans: int
  sentinels: int
  inputs: int
  targets: int


def _replace_spans(
  tokens: tf.Tensor, mask: tf.Tensor, sentinels: tf.Tensor
) -> tf.Tensor:
  """Replaces each run of masked tokens with the next sentinel."""
  starts = mask & ~tf.concat([[False], mask[:-1]], axis=0)
  number = tf.cumsum(tf.cast(starts, tf.int32)) - 1
  ids = tf.gather(sentinels, tf.maximum(number, 0))  # -1 before the first run
  return tf.where(starts, ids, tokens)[starts | ~mask]


def random_spans_noise_mask(
  length,
  noise_density,
  seeds,
  mean_noise_span_length=3.0,
  random_roll=False,
):
  """Draws T5's noise mask of random spans.

  round(length * noise_density) tokens are noise (at least 1, at most length -
  1), in round(noise / mean_noise_span_length) spans (at least one). The lengths
  of the spans, and of the gaps before each, are drawn uniformly from all
  compositions of their totals. The mask begins with a gap and ends with noise.

  Args:
    length: int32 scalar, the number of tokens of the window.
    noise_density: the fraction of noise; 0.0 is no noise.
    seeds: int32 [2, 2], one seed for the noise and one for the gaps.
    mean_noise_span_length: the mean length of a span, in tokens.
    random_roll: whether to rotate the mask by a random offset. Without it a
      single span always lies at the end.

  Returns:
    bool [length], true on noise.
  """
  if noise_density == 0.0:
    return tf.zeros([length], tf.bool)
  # A window of one token is drawn as one of two, then truncated.
  size = tf.maximum(tf.cast(length, tf.int32), 2)
  num_noise = _round(tf.cast(size, tf.float32) * noise_density)
  num_noise = tf.clip_by_value(num_noise, 1, size - 1)
  num_spans = _round(tf.cast(num_noise, tf.float32) / mean_noise_span_length)
  num_spans = tf.maximum(num_spans, 1)

  spans = _composition(num_noise, num_spans, seeds[0])
  gaps = _composition(size - num_noise, num_spans, seeds[1])
  lengths = tf.reshape(tf.stack([gaps, spans], axis=1), [-1])
  # The mask changes at the cumulative lengths, except at the last, the end.
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

  Draws parts - 1 borders from the total - 1 places between items.
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
  """Returns the raw length that fills the inputs, and the targets' length.

  Args:
    inputs_length: the number of input tokens, including EOS.
    noise_density: the fraction of tokens that are noise.
    mean_noise_span_length: the mean length of a span of noise.
    extra_tokens_per_span_inputs: sentinels per span in the inputs.
    extra_tokens_per_span_targets: sentinels per span in the targets.
    verbose: whether to print the plan.

  Returns:
    (number of raw tokens, number of target tokens including EOS).
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
  # T5's exception: at density 0.5 the targets must not exceed the inputs.
  if noise_density == 0.5 and targets_length > inputs_used:
    raw_length -= 1
    targets_length -= 1
  if verbose:
    print(f"{raw_length=} {inputs_used=} {targets_length=}")
  return raw_length, targets_length
