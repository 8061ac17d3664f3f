"""Implements fill in the middle, FIM (Bavarian et al. 2022, arXiv:2207.14255).

  text          "the cat sat"      cut after "the c" and "at s"
  PSM, targets  [<PRE> the c <SUF> at <MID> at s $]
  SPM, targets  [<PRE> <SUF> at <MID> the c at s $]

Documents are cut at characters, so a cut may split a word, like a user's
cursor; both parts are then encoded separately (characters.py). Prefix + middle
+ suffix is the text. Loss is taken on all tokens. <PRE>, <SUF> and <MID> are
<extra_id_0> to <extra_id_2>; $ is EOS. Section 3; SPM is the variant whose
prefix and middle are concatenated, so that joint training with PSM transfers.
"""

from __future__ import annotations

import dataclasses

import seqio
import tensorflow as tf

from t5x_lite import checks
from t5x_lite.data import sentinels as text_lib
from tasks import characters, vocabularies, windows

# <PRE>, <SUF>, <MID> and EOS.
_MARKS = 4
# Tokens reserved for the parts of two split words, as a fraction of the length
# and at most: the parts of most words have one or two tokens more than the
# word.
_SPARE, _MOST_SPARE = 1 / 16, 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class FIM(windows.Objective):
  """Moves the middle of some documents to their end.

  Documents are not concatenated: long ones are divided into examples that leave
  room for the marks and for split words; short ones should be packed. If the
  parts of a split word do not fit, the cut moves back to the beginning of a
  token.

  Attributes:
    rate: the fraction of examples that are transformed; the others are plain
      text.
    spm_rate: the fraction of transformed examples in the order suffix, prefix,
      middle; 0.5 is joint training.
  """

  name = "fim"
  texts = {"targets": True}
  takes_targets_length = True

  rate: checks.Fraction = 0.5
  spm_rate: checks.Fraction = 0.5

  def __post_init__(self):
    checks.fields(self)

  def to_windows(
    self, dataset: tf.data.Dataset, lengths, vocabulary: seqio.Vocabulary
  ) -> tf.data.Dataset:
    (length,) = lengths
    if length <= _MARKS:
      raise ValueError(
        f"fim of {length} targets has no room for text beside {_MARKS} marks: "
        "set more targets"
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
    """Makes an example from the tokens of a text."""
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
  """Returns the maximum number of text tokens in targets of `length` tokens.

  With bytes, a cut does not change the number of tokens.
  """
  room = length - _MARKS
  if isinstance(vocabulary, seqio.ByteVocabulary):
    return room
  return room - min(int(_SPARE * room), _MOST_SPARE)


def cut_in_three(
  tokens: tf.Tensor, vocabulary: seqio.Vocabulary, *, room: int, seed
) -> tuple[tf.Tensor, ...]:
  """Splits a text at two uniformly drawn characters; parts may be empty.

  Args:
    tokens: int32 [n], the text.
    vocabulary: the vocabulary of the tokens.
    room: the maximum number of tokens of all parts together, at least n.
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
  # The first cut gets half of the spare tokens, the second gets the rest.
  spare = room - tf.size(tokens)
  rest, suffix = cutter.cut(tokens, second, most=spare // 2)
  spare = room - tf.size(rest) - tf.size(suffix)
  first = tf.minimum(first, cutter.places(rest)[-1])
  return *cutter.cut(rest, first, most=spare), suffix
