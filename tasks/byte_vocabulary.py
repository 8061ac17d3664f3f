"""Defines ByT5's byte vocabulary as a seqio vocabulary, with sentinels."""

from __future__ import annotations

import functools

import seqio
import tensorflow as tf

from t5x_lite.data.vocabularies import byte
from tasks import python_ops


class Bytes(byte.Bytes, seqio.ByteVocabulary):
  """Encodes text as bytes, and <extra_id_N> in the text as one sentinel.

  Ids: pad 0, EOS 1, unk 2, then the 256 bytes, then the extra ids, 384 in all.
  """

  recorded_kind = "bytes"

  def __init__(self, *, extra_ids: int = byte.EXTRA_IDS):
    byte.Bytes.__init__(self, extra_ids=extra_ids)
    seqio.ByteVocabulary.__init__(self, extra_ids=extra_ids)

  def recorded_settings(self) -> dict[str, int]:
    """Returns the arguments of the plain class."""
    return {"extra_ids": self.extra_ids}

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    plain = functools.partial(super()._encode_tf, s)
    if not self.extra_ids:
      return plain()
    # Texts with sentinels, which are rare, are encoded in Python.
    ids = tf.cond(
      python_ops.has_sentinels(s),
      lambda: python_ops.encode(self._encode, s),
      plain,
    )
    return tf.ensure_shape(ids, [None])

  def __hash__(self) -> int:
    return hash(("bytes", self.extra_ids))

  def __str__(self) -> str:
    return f"Bytes(extra_ids={self.extra_ids})"

  __repr__ = __str__
