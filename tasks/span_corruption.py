"""Span corruption: T5's objective (Raffel et al. 2020, arXiv:1910.10683).

  window    [a b c d e f g h]        noise  . . x x . . . x
  inputs    [a b <X> e f g <Y> $]
  targets   [<X> c d <Y> h $]

<X>, <Y>, ... are the vocabulary's last ids, descending; $ is EOS. The targets
end without a closing sentinel. `random_spans_noise_mask` and
`random_spans_helper` have the names, the signatures and, seed for seed, the
results of t5.data.preprocessors in the public package t5 0.9.4.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from tasks import metrics, vocabularies, windows


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCorruption:
  """Replaces spans of a window by sentinels; the targets are the spans.

  The window is as long as fills `inputs` exactly: 512 inputs, density 0.15 and
  mean span 3 make windows of 568 tokens and 114 targets.

  Attributes:
    noise_density: the share of tokens that is replaced.
    mean_span: the mean length of a replaced span, in tokens.
    end_documents: whether EOS stands between the documents of a window. T5
      joins them without: an EOS within the targets would end decoding early.
  """

  noise_density: float = 0.15
  mean_span: float = 3.0
  end_documents: bool = False

  metric_fns = (metrics.infilling,)
  postprocess_fn = staticmethod(metrics.spans)

  def __post_init__(self):
    if not 0 < self.noise_density < 1:
      raise ValueError(
        f"noise_density ({self.noise_density}) must be between 0 and 1"
      )
    if self.mean_span < 1:
      raise ValueError(f"mean_span ({self.mean_span}) must be at least 1")

  def output_features(
    self, vocabulary: seqio.Vocabulary
  ) -> Mapping[str, seqio.Feature]:
    return {
      "inputs": seqio.Feature(vocabulary, add_eos=True),
      "targets": seqio.Feature(vocabulary, add_eos=True),
    }

  def preprocessors(self) -> Sequence[Callable[..., tf.data.Dataset]]:
    return (
      functools.partial(windows.encode, append_eos=self.end_documents),
      self._cut_to_window,
      functools.partial(
        corrupt, noise_density=self.noise_density, mean_span=self.mean_span
      ),
    )

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
      while window >= 2 and not self._fits(window, inputs_length):
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

  def _fits(self, window: int, inputs_length: int) -> bool:
    plan = self._plan(window)
    # T5's exception, as in `random_spans_helper`.
    is_even = self.noise_density != 0.5 or plan.targets <= inputs_length
    return plan.inputs <= inputs_length and is_even

  def _plan(self, window: int) -> SpanPlan:
    noise = round(np.float32(window) * np.float32(self.noise_density))
    noise = min(max(noise, 1), window - 1)
    spans = max(round(np.float32(noise) / np.float32(self.mean_span)), 1)
    return SpanPlan(
      window=window,
      noise=noise,
      spans=spans,
      inputs=window - noise + spans + 1,
      targets=noise + spans + 1,
    )

  def _cut_to_window(
    self,
    dataset: tf.data.Dataset,
    sequence_length: windows.Lengths,
    output_features: windows.Features,
  ) -> tf.data.Dataset:
    inputs_length, targets_length = windows.check_lengths(
      sequence_length, "inputs", "targets", objective="span_corruption"
    )
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
    vocabularies.check_sentinels(
      output_features["targets"].vocabulary, plan.spans, what=given
    )
    return windows.cut(dataset, plan.window, min_length=2)


@dataclasses.dataclass(frozen=True)
class SpanPlan:
  """Counts the tokens of one example; `inputs` and `targets` count EOS."""

  window: int
  noise: int
  spans: int
  inputs: int
  targets: int


@seqio.map_over_dataset(num_seeds=1)
def _corrupt(example, seed, vocabulary, noise_density, mean_span):
  # Six seeds, of which T5 too takes the first two for the mask.
  seeds = tf.random.experimental.stateless_split(seed, 6)
  tokens = example["targets"]
  noise = random_spans_noise_mask(
    tf.size(tokens), noise_density, seeds[:2], mean_noise_span_length=mean_span
  )
  first_id = vocabulary.vocab_size - 1
  eos = tf.constant([vocabulary.eos_id], tf.int32)
  return {
    "inputs": tf.concat([_fold_spans(tokens, noise, first_id), eos], 0),
    "targets": tf.concat([_fold_spans(tokens, ~noise, first_id), eos], 0),
  }


def corrupt(
  dataset: tf.data.Dataset,
  output_features: windows.Features,
  *,
  noise_density: float,
  mean_span: float,
) -> tf.data.Dataset:
  """Maps windows in "targets" to "inputs" and "targets", each with EOS."""
  return _corrupt(
    dataset,
    vocabulary=output_features["targets"].vocabulary,
    noise_density=noise_density,
    mean_span=mean_span,
  )


def _fold_spans(tokens: tf.Tensor, mask: tf.Tensor, first_id: int) -> tf.Tensor:
  """Replaces the runs of masked tokens by first_id, first_id - 1, ..."""
  starts = mask & ~tf.concat([[False], mask[:-1]], axis=0)
  ids = first_id + 1 - tf.cumsum(tf.cast(starts, tf.int32))
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
