"""Causal language modelling: predict each token from those before it.

  documents   "a b c"  "d e"
  targets     [a b c $ d]  [e $ ...]      (5 tokens each)

EOS stands at the end of documents only, windows are cut without regard to
them, and every token bears loss. There are no inputs: this is for decoders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from tasks import windows


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalLM:
  """Fills `targets` with consecutive tokens of the joined documents."""

  metric_fns = ()  # No inputs, so nothing to generate from.
  postprocess_fn = None

  def output_features(
    self, vocabulary: seqio.Vocabulary
  ) -> Mapping[str, seqio.Feature]:
    return {"targets": seqio.Feature(vocabulary, add_eos=True)}

  def preprocessors(self) -> Sequence[Callable[..., tf.data.Dataset]]:
    return (
      *windows.encoded(append_eos=True),
      _cut_to_targets_length,
    )


def _cut_to_targets_length(
  dataset: tf.data.Dataset, sequence_length: windows.Lengths
) -> tf.data.Dataset:
  (length,) = windows.check_lengths(
    sequence_length, "targets", objective="causal_lm"
  )
  if length < 2:
    raise ValueError(
      f"causal_lm needs at least 2 targets, got {length}: with one token there "
      "is no context"
    )
  return windows.cut(dataset, length)
