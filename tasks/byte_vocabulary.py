"""Defines ByT5's byte vocabulary, with sentinels."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import seqio
import tensorflow as tf

from t5x_lite.data import sentinels as text_lib
from t5x_lite.files import text_files
from tasks import python_ops

# As in ByT5: 3 special ids + 256 bytes + 125 extra ids = 384.
EXTRA_IDS = 125


class Bytes(seqio.ByteVocabulary):
  """Encodes text as bytes, and <extra_id_N> in the text as one sentinel.

  Ids: pad 0, EOS 1, unk 2, then the 256 bytes, then the extra ids, 384 in all.
  """

  def __init__(self, *, extra_ids: int = EXTRA_IDS):
    super().__init__(extra_ids=extra_ids)

  def _encode(self, s: str | bytes) -> Sequence[int]:
    s = s.decode() if isinstance(s, bytes) else s
    text_files.check_text(s, "the text")
    sentinels = text_lib.sentinel_ids(self)
    text, *rest = text_lib.SENTINEL.split(s)
    ids = list(super()._encode(text))
    for number, text in zip(rest[::2], rest[1::2], strict=True):
      if int(number) < len(sentinels):
        ids.append(sentinels[int(number)])
      else:
        ids += super()._encode(f"<extra_id_{number}>")
      ids += super()._encode(text)
    return ids

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

  def decode(self, ids) -> str:
    """Decodes up to the first EOS, with sentinels as <extra_id_N>."""
    # A model may have more ids than the vocabulary, as padding.
    ids = [int(i) for i in ids if i < self.vocab_size]
    if self.eos_id in ids:
      ids = ids[: ids.index(self.eos_id)]
    parts, first = [], 0
    for i, token in enumerate([*ids, self.vocab_size]):
      if token >= self._base_vocab_size:
        parts.append(self._decode(ids[first:i]))
        parts.append(f"<extra_id_{self.vocab_size - 1 - token}>")
        first = i + 1
    return "".join(parts[:-1])

  def __hash__(self) -> int:
    return hash(("bytes", self.extra_ids))

  def __str__(self) -> str:
    return f"Bytes(extra_ids={self.extra_ids})"

  __repr__ = __str__
