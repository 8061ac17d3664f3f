"""Masked language modelling: BERT's objective (Devlin et al. 2019).

  window    [a b c d e f $ g]     chosen  . x . . x . . x
  inputs    [a M c d e f $ r]     b masked, e kept, g replaced at random
  targets   [a b c d e f $ g]
  weights   [0 1 0 0 1 0 0 1]

Loss is taken on all chosen positions, the kept and the replaced ones too; that
is why the weights are a feature. M is <extra_id_0>, $ ends a document and is
never chosen. arXiv:1810.04805, section 3.1.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from tasks import vocabularies, windows


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLM:
  """Chooses round(noise_density * eligible) tokens of each window.

  Attributes:
    noise_density: the share of the eligible tokens that is chosen.
    mask_fraction: the share of the chosen that becomes the mask.
    random_fraction: the share of the chosen that becomes a random token; what
      remains is kept.
  """

  noise_density: float = 0.15
  mask_fraction: float = 0.8
  random_fraction: float = 0.1

  metric_fns = ()  # Nothing is generated.
  postprocess_fn = None

  def __post_init__(self):
    windows.check_density(self.noise_density)
    fractions = (self.mask_fraction, self.random_fraction)
    if min(fractions) < 0 or sum(fractions) > 1:
      raise ValueError(
        f"mask_fraction ({self.mask_fraction}) and random_fraction "
        f"({self.random_fraction}) must be at least 0 and sum to at most 1"
      )

  def output_features(
    self, vocabulary: seqio.Vocabulary
  ) -> Mapping[str, seqio.Feature]:
    zero_or_one = seqio.PassThroughVocabulary(size=2)
    return {
      "inputs": seqio.Feature(vocabulary, add_eos=False),
      "targets": seqio.Feature(vocabulary, add_eos=False),
      "weights": seqio.Feature(zero_or_one, add_eos=False),
    }

  def preprocessors(self) -> Sequence[Callable[..., tf.data.Dataset]]:
    return (
      functools.partial(windows.encode, append_eos=True),
      _cut_to_inputs_length,
      functools.partial(mask, objective=self),
    )


def _cut_to_inputs_length(
  dataset: tf.data.Dataset, sequence_length: windows.Lengths
) -> tf.data.Dataset:
  lengths = windows.check_lengths(
    sequence_length, "inputs", "targets", "weights", objective="mlm"
  )
  if len(set(lengths)) > 1 or lengths[0] < 2:
    raise ValueError(
      "mlm needs one length of at least 2 for inputs, targets and weights, got "
      + ", ".join(map(str, lengths))
    )
  return windows.cut(dataset, lengths[0], min_length=2)


def mask(
  dataset: tf.data.Dataset,
  output_features: windows.Features,
  *,
  objective: MLM,
) -> tf.data.Dataset:
  """Maps windows in "targets" to "inputs", "targets" and "weights"."""
  vocabulary = output_features["targets"].vocabulary
  vocabularies.check_sentinels(vocabulary, 1, what="mlm's mask")
  return _mask(dataset, vocabulary=vocabulary, objective=objective)


@seqio.map_over_dataset(num_seeds=3)
def _mask(example, seeds, vocabulary, objective):
  tokens = example["targets"]
  first_id, end_id = vocabularies.ordinary_ids(vocabulary)
  chosen = choose(
    (tokens >= first_id) & (tokens < end_id),
    objective.noise_density,
    seed=seeds[0],
  )
  draw = tf.random.stateless_uniform(tf.shape(tokens), seed=seeds[1])
  random_ids = tf.random.stateless_uniform(
    tf.shape(tokens), seeds[2], minval=first_id, maxval=end_id, dtype=tf.int32
  )
  noised = objective.mask_fraction + objective.random_fraction
  inputs = tf.where(draw < noised, random_ids, tokens)
  inputs = tf.where(
    draw < objective.mask_fraction, vocabulary.vocab_size - 1, inputs
  )
  return {
    "inputs": tf.where(chosen, inputs, tokens),
    "targets": tokens,
    "weights": tf.cast(chosen, tf.int32),
  }


def choose(eligible: tf.Tensor, density: float, *, seed) -> tf.Tensor:
  """Draws round(density * eligible) eligible positions, and one at least.

  Args:
    eligible: bool [n].
    density: the share to draw.
    seed: int32 [2].

  Returns:
    bool [n]; all false if nothing is eligible.
  """
  total = tf.reduce_sum(tf.cast(eligible, tf.int32))
  count = tf.round(density * tf.cast(total, tf.float32))
  count = tf.minimum(tf.maximum(tf.cast(count, tf.int32), 1), total)
  draw = tf.random.stateless_uniform(tf.shape(eligible), seed=seed)
  order = tf.argsort(tf.where(eligible, draw, 1.0), stable=True)
  ones = tf.ones([count], tf.int32)
  hits = tf.scatter_nd(order[:count, tf.newaxis], ones, tf.shape(eligible))
  return tf.cast(hits, tf.bool)
