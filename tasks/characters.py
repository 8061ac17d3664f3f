"""Splits token sequences at a character of their text.

  tokens              [▁the ▁cat ▁sat]
  cut after "the c"   [▁the ▁c] and [at ▁sat]

A cut within a word splits the word's text and encodes both parts separately,
like the text of a user whose cursor is there. All other tokens are kept:
sentinels, unknown characters and incomplete characters at the end of a window
are never decoded. The cut moves back to the beginning of its token if the new
tokens do not decode to the word (for example because the tokenizer normalises
it) or if there are too many of them.
"""

from __future__ import annotations

import dataclasses

import seqio
import tensorflow as tf

from tasks import spelling, vocabularies


@dataclasses.dataclass(frozen=True)
class Cutter:
  """Splits sequences of a vocabulary's tokens.

  Attributes:
    vocabulary: if the text of its tokens is unknown (see spelling.py), each
      token counts as one character.
    pieces: string [vocab_size], the text of each token.
  """

  vocabulary: seqio.Vocabulary
  pieces: tf.Tensor

  @classmethod
  def of(cls, vocabulary: seqio.Vocabulary) -> Cutter:
    """Creates the cutter of a vocabulary."""
    return cls(vocabulary, tf.constant(spelling.table(vocabulary)))

  def spell(self, tokens: tf.Tensor) -> tf.Tensor:
    """Returns the bytes of tokens, as a scalar string."""
    return tf.strings.reduce_join(tf.gather(self.pieces, tokens))

  def places(self, tokens: tf.Tensor) -> tf.Tensor:
    """Returns the byte offsets of possible cuts: int32 [characters + 1]."""
    raw = tf.io.decode_raw(self.spell(tokens), tf.uint8)
    begins = tf.cast(tf.where(_is_first(raw))[:, 0], tf.int32)
    return tf.concat([begins, [tf.size(raw)]], axis=0)

  def cut(
    self, tokens: tf.Tensor, place: tf.Tensor, *, most: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Splits tokens in two.

    Args:
      tokens: int32 [n].
      place: one of `places`.
      most: the two parts together may have up to n + most tokens.

    Returns:
      The two parts; either may be empty.
    """
    pieces = tf.gather(self.pieces, tokens)
    text = self.spell(tokens)
    bounds = tf.cumsum(tf.concat([[0], tf.strings.length(pieces)], axis=0))
    token = tf.searchsorted(bounds, [place], side="right")[0] - 1
    between = tokens[:token], tokens[token:]
    if isinstance(self.vocabulary, seqio.ByteVocabulary):
      return between  # A byte's token does not depend on its neighbours.
    words = _words(pieces, text)
    word_bounds = tf.gather(bounds, words)
    first = words[tf.searchsorted(word_bounds, [place], side="right")[0] - 1]
    end = words[tf.searchsorted(word_bounds, [place], side="left")[0]]
    texts = (
      tf.strings.substr(text, bounds[first], place - bounds[first]),
      tf.strings.substr(text, place, bounds[end] - place),
    )
    left, right = map(self._encode, texts)
    is_good = (
      (self.spell(left) == texts[0])
      & (self.spell(right) == texts[1])
      & (tf.size(left) + tf.size(right) <= end - first + most)
    )
    return tf.cond(
      is_good,
      lambda: (
        tf.concat([tokens[:first], left], axis=0),
        tf.concat([right, tokens[end:]], axis=0),
      ),
      lambda: between,
    )

  def _encode(self, text: tf.Tensor) -> tf.Tensor:
    # A token may end in an incomplete character, which cannot be encoded.
    whole = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", "ignore")
    return vocabularies.encode_rest_tf(self.vocabulary, whole)


def _words(pieces: tf.Tensor, text: tf.Tensor) -> tf.Tensor:
  """Returns the index of each word's first token, then n: int32 [words + 1].

  A word begins with white space. A token with incomplete characters is a word
  of its own.
  """
  is_broken = tf.RaggedTensor.from_row_lengths(
    _is_broken(tf.io.decode_raw(text, tf.uint8)), tf.strings.length(pieces)
  )
  is_broken = tf.reduce_any(is_broken, axis=1)
  is_first = tf.strings.regex_full_match(tf.strings.substr(pieces, 0, 1), r"\s")
  is_first |= is_broken | tf.concat([[True], is_broken[:-1]], axis=0)
  return tf.cast(
    tf.where(tf.concat([is_first, [True]], axis=0))[:, 0], tf.int32
  )


def _is_first(raw: tf.Tensor) -> tf.Tensor:
  """Returns which bytes begin a character; the first always counts as one."""
  is_first = tf.bitwise.bitwise_and(raw, 0xC0) != 0x80
  return is_first | (tf.range(tf.size(raw)) == 0)


def _is_broken(raw: tf.Tensor) -> tf.Tensor:
  """Returns which bytes are not part of a complete UTF-8 character."""
  begins = tf.where(_is_first(raw))[:, 0]
  ends = tf.concat([begins[1:], [tf.size(raw, tf.int64)]], axis=0)
  lead = tf.gather(raw, begins)
  needed = tf.reduce_sum(
    [tf.cast(lead >= bound, tf.int64) for bound in (0xC0, 0xE0, 0xF0)], axis=0
  )
  is_broken = (ends - begins != needed + 1) | ((lead >= 0x80) & (lead < 0xC0))
  return tf.repeat(is_broken, ends - begins)
