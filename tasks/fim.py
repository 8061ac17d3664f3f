"""Fill in the middle (Bavarian et al. 2022, arXiv:2207.14255).

  text          "the cat sat"      cut after "the c" and "at s"
  PSM, targets  [<PRE> the c <SUF> at <MID> at s $]
  SPM, targets  [<PRE> <SUF> at <MID> the c at s $]

The cuts are at characters, so words are cut in two as a user's cursor does it,
and each part is encoded for itself. All tokens bear loss. <PRE>, <SUF> and
<MID> are <extra_id_0> to <extra_id_2>; $ is EOS. Section 3; SPM is the variant
whose prefix and middle are joined, so that joint training with PSM transfers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from t5x_lite import text as text_lib
from tasks import vocabularies, windows

# <PRE>, <SUF>, <MID> and EOS.
_MARKS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class FIM:
  """Puts the middle of documents at their end, at a rate.

  Documents are not joined: longer ones are divided into examples that leave
  room for the marks, and shorter ones fill a row together where the run packs.
  If a part takes more tokens than within the text, the suffix loses its end,
  then the prefix its beginning; the middle stays.

  Attributes:
    rate: the share of examples that are transformed; others are plain text.
    spm_rate: the share of these in the order suffix, prefix, middle; 0.5 is
      joint training.
  """

  rate: float = 0.5
  spm_rate: float = 0.5

  metric_fns = ()  # No inputs, so nothing to generate from.
  postprocess_fn = None

  def __post_init__(self):
    for name in ("rate", "spm_rate"):
      value = getattr(self, name)
      if not 0 <= value <= 1:
        raise ValueError(f"{name} ({value}) must be from 0 to 1")

  def output_features(
    self, vocabulary: seqio.Vocabulary
  ) -> Mapping[str, seqio.Feature]:
    return {"targets": seqio.Feature(vocabulary, add_eos=True)}

  def preprocessors(self) -> Sequence[Callable[..., tf.data.Dataset]]:
    return (*windows.encoded(), self._transform)

  def _transform(
    self,
    dataset: tf.data.Dataset,
    sequence_length: windows.Lengths,
    output_features: windows.Features,
  ) -> tf.data.Dataset:
    (length,) = windows.check_lengths(
      sequence_length, "targets", objective="fim"
    )
    if length <= _MARKS:
      raise ValueError(
        f"fim of {length} targets leaves no text beside {_MARKS} marks: set "
        "more targets"
      )
    vocabularies.check_sentinels(
      output_features["targets"].vocabulary, _MARKS - 1, what="fim"
    )
    dataset = windows.divide(dataset, length - _MARKS)
    corrupt = functools.partial(self.corrupt, targets_length=length)
    return windows.transform(dataset, output_features, function=corrupt)

  def corrupt(
    self,
    tokens: tf.Tensor,
    seed: tf.Tensor,
    vocabulary: seqio.Vocabulary,
    *,
    targets_length: int,
  ) -> dict[str, tf.Tensor]:
    """Makes an example of a text's tokens."""
    seeds = tf.random.experimental.stateless_split(seed, 3)

    def is_drawn(index, rate):
      return tf.random.stateless_uniform([], seeds[index]) < rate

    def transform():
      parts = cut_in_three(vocabulary.decode_tf(tokens), seed=seeds[2])
      prefix, middle, suffix = _encode(parts, vocabulary)
      room = targets_length - _MARKS - tf.size(middle)
      suffix = suffix[: tf.maximum(room - tf.size(prefix), 0)]
      prefix = prefix[tf.maximum(tf.size(prefix) - room, 0) :]
      pre, suf, mid = ([i] for i in text_lib.sentinel_ids(vocabulary)[:3])
      return tf.cond(
        is_drawn(1, self.spm_rate),
        lambda: tf.concat([pre, suf, suffix, mid, prefix, middle], axis=0),
        lambda: tf.concat([pre, prefix, suf, suffix, mid, middle], axis=0),
      )[: targets_length - 1]

    targets = tf.cond(is_drawn(0, self.rate), transform, lambda: tokens)
    return windows.end(vocabulary, targets=targets)


def cut_in_three(text: tf.Tensor, *, seed) -> tuple[tf.Tensor, ...]:
  """Cuts a text at two characters, drawn uniformly; parts may be empty."""
  characters = tf.strings.unicode_split(text, "UTF-8")
  cuts = tf.sort(
    tf.random.stateless_uniform([2], seed, 0, tf.size(characters) + 1, tf.int32)
  )
  return tuple(
    tf.strings.reduce_join(part)
    for part in (
      characters[: cuts[0]],
      characters[cuts[0] : cuts[1]],
      characters[cuts[1] :],
    )
  )


def _encode(parts, vocabulary) -> tuple[tf.Tensor, ...]:
  prefix, *others = parts
  return (
    vocabulary.encode_tf(prefix),
    *(vocabularies.encode_rest_tf(vocabulary, text) for text in others),
  )
