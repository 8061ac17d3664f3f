"""Fill in the middle (Bavarian et al. 2022, arXiv:2207.14255).

  text          "the cat sat"      cut after "the c" and "at s"
  PSM, targets  [<PRE> the c <SUF> at <MID> at s $]
  SPM, targets  [<PRE> <SUF> at <MID> the c at s $]

The cuts are at characters, so words are cut in two as a user's cursor does it,
and each part of one is encoded for itself (characters.py). Prefix, middle and
suffix, joined, are the text. All tokens bear loss. <PRE>, <SUF> and
<MID> are <extra_id_0> to <extra_id_2>; $ is EOS. Section 3; SPM is the variant
whose prefix and middle are joined, so that joint training with PSM transfers.
"""

from __future__ import annotations

import dataclasses

import seqio
import tensorflow as tf

from t5x_lite.data import sentinels as text_lib
from tasks import characters, vocabularies, windows

# <PRE>, <SUF>, <MID> and EOS.
_MARKS = 4
# Tokens that stay free for the parts of two words, of 16 and at most: most
# words that are cut take one or two more than before.
_SPARE, _MOST_SPARE = 1 / 16, 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class FIM(windows.Objective):
  """Puts the middle of documents at their end, at a rate.

  Documents are not joined: longer ones are divided into examples that leave
  room for the marks and for words that are cut, and shorter ones fill a row
  together where the run packs. A word whose parts take more room than there is
  is cut between two of its tokens, or not at all.

  Attributes:
    rate: the share of examples that are transformed; others are plain text.
    spm_rate: the share of these in the order suffix, prefix, middle; 0.5 is
      joint training.
  """

  name = "fim"
  texts = {"targets": True}
  takes_targets_length = True

  rate: float = 0.5
  spm_rate: float = 0.5

  def __post_init__(self):
    for name in ("rate", "spm_rate"):
      value = getattr(self, name)
      if not 0 <= value <= 1:
        raise ValueError(f"{name} ({value}) must be from 0 to 1")

  def to_windows(
    self, dataset: tf.data.Dataset, lengths, vocabulary: seqio.Vocabulary
  ) -> tf.data.Dataset:
    (length,) = lengths
    if length <= _MARKS:
      raise ValueError(
        f"fim of {length} targets leaves no text beside {_MARKS} marks: set "
        "more targets"
      )
    vocabularies.check_sentinels(vocabulary, _MARKS - 1, what="fim")
    return windows.divide(dataset, window_length(length, vocabulary))

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
      prefix, middle, suffix = cut_in_three(
        tokens, vocabulary, room=targets_length - _MARKS, seed=seeds[2]
      )
      pre, suf, mid = ([i] for i in text_lib.sentinel_ids(vocabulary)[:3])
      return tf.cond(
        is_drawn(1, self.spm_rate),
        lambda: tf.concat([pre, suf, suffix, mid, prefix, middle], axis=0),
        lambda: tf.concat([pre, prefix, suf, suffix, mid, middle], axis=0),
      )

    targets = tf.cond(is_drawn(0, self.rate), transform, lambda: tokens)
    return windows.end(vocabulary, targets=targets)


def window_length(length: int, vocabulary: seqio.Vocabulary) -> int:
  """Returns the most tokens of a text that targets of `length` have room for.

  Bytes stay as many wherever they are cut.
  """
  room = length - _MARKS
  if isinstance(vocabulary, seqio.ByteVocabulary):
    return room
  return room - min(int(_SPARE * room), _MOST_SPARE)


def cut_in_three(
  tokens: tf.Tensor, vocabulary: seqio.Vocabulary, *, room: int, seed
) -> tuple[tf.Tensor, ...]:
  """Cuts a text at two characters, drawn uniformly; parts may be empty.

  Args:
    tokens: int32 [n], of the text.
    vocabulary: of the tokens.
    room: the most tokens that all parts may have, at least n.
    seed: int32 [2].
  """
  cutter = characters.Cutter.of(vocabulary)
  places = cutter.places(tokens)
  first, second = tf.unstack(
    tf.gather(
      places,
      tf.sort(
        tf.random.stateless_uniform([2], seed, 0, tf.size(places), tf.int32)
      ),
    )
  )
  # Half of what is free for either cut, and what one leaves for the other.
  spare = room - tf.size(tokens)
  rest, suffix = cutter.cut(tokens, second, most=spare // 2)
  spare = room - tf.size(rest) - tf.size(suffix)
  first = tf.minimum(first, cutter.places(rest)[-1])
  return *cutter.cut(rest, first, most=spare), suffix
