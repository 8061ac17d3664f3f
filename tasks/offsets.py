"""Encodes a text and finds the tokens at given byte offsets.

  text      "One.  Two"            places    [6]
  tokens    [▁One . ▁▁ Two]        indices   [3]

A place is a byte offset in the text before normalisation. Its token is the
first one that ends at or after this byte, so a token that spans the place is
found.
"""

from __future__ import annotations

import seqio
import tensorflow as tf

from tasks import hf_vocabulary, python_ops


def encode(
  vocabulary: seqio.Vocabulary, text: tf.Tensor, places: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Encodes a text with `encode_tf` and finds the tokens at `places`.

  Args:
    vocabulary: any; bytes, SentencePiece and tokenizer.json return the offsets
      of tokens. For others, and for a text with sentinels, the text before each
      place is encoded too, which is slow.
    text: scalar string, in UTF-8.
    places: int32 [m], ascending byte offsets.

  Returns:
    The tokens, int32 [n], and the index of each place's token, int32 [m]; n if
    no token follows.
  """
  with_bytes = _WITH_BYTES.get(_kind(vocabulary))

  def by_bytes():
    tokens, last_bytes = with_bytes(vocabulary, text)
    return tokens, tf.searchsorted(last_bytes, places)

  def by_prefixes():
    tokens = vocabulary.encode_tf(text)
    return tokens, _common_prefixes(vocabulary, text, tokens, places)

  if with_bytes is None:
    return by_prefixes()
  has_sentinels = python_ops.has_sentinels(text)
  tokens, found = tf.cond(has_sentinels, by_prefixes, by_bytes)
  return tf.ensure_shape(tokens, [None]), tf.ensure_shape(found, [None])


def _common_prefixes(vocabulary, text, tokens, places):
  """Counts the tokens shared with the encoded text before each place."""

  def count(place):
    before = vocabulary.encode_tf(tf.strings.substr(text, 0, place))
    size = tf.minimum(tf.size(before), tf.size(tokens))
    same = tf.cast(before[:size] == tokens[:size], tf.int32)
    return tf.reduce_sum(tf.math.cumprod(same))

  return tf.map_fn(count, places)


def _bytes(vocabulary, text):
  tokens = vocabulary.encode_tf(text)
  return tokens, tf.range(tf.size(tokens))


def _sentencepiece(vocabulary, text):
  tokens, begins, ends = vocabulary.tf_tokenizer.tokenize_with_offsets(text)
  # With byte fallback, only a character's last byte has a non-empty range.
  return tokens, tf.cast(tf.maximum(begins, ends - 1), tf.int32)


def _huggingface(vocabulary, text):
  tokens, last_bytes = tf.numpy_function(
    vocabulary.encode_with_bytes, [text], [tf.int32, tf.int32], stateful=False
  )
  return tf.ensure_shape(tokens, [None]), tf.ensure_shape(last_bytes, [None])


# Kind of vocabulary -> function that returns tokens and their last bytes.
_WITH_BYTES = {
  seqio.ByteVocabulary: _bytes,
  seqio.SentencePieceVocabulary: _sentencepiece,
  hf_vocabulary.HuggingFaceTokenizer: _huggingface,
}


def _kind(vocabulary) -> type | None:
  for kind in _WITH_BYTES:
    if isinstance(vocabulary, kind):
      return kind
  return None
