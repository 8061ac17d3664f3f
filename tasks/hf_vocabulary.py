"""Reads Hugging Face's tokenizer.json as a seqio vocabulary.

See t5x_lite/data/vocabularies/tokenizer_json.py, which has all but TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite.data.vocabularies import tokenizer_json
from tasks import python_ops


class HuggingFaceTokenizer(tokenizer_json.TokenizerJson, seqio.Vocabulary):
  """Encodes text by a tokenizer.json, with pad 0, EOS (if any) and sentinels.

  Its arguments are those of `TokenizerJson`.
  """

  recorded_kind = "tokenizer_json"

  def __init__(
    self,
    path: str,
    *,
    extra_ids: int = 100,
    eos: str | None = None,
    start: str | None = None,
    pieces: Sequence[str] = (),
    mask: str | None = None,
  ):
    seqio.Vocabulary.__init__(self, extra_ids=0)
    tokenizer_json.TokenizerJson.__init__(
      self, path, extra_ids=extra_ids, eos=eos, start=start, pieces=pieces,
      mask=mask,
    )  # fmt: skip

  def recorded_settings(self) -> dict[str, Any]:
    """Returns the arguments of the plain class, but for the path."""
    _, extra_ids, eos, start, pieces, mask = self._recipe()
    return {
      "extra_ids": extra_ids,
      "eos": eos,
      "start": start,
      "pieces": list(pieces),
      "mask": mask,
    }

  @property
  def bos_id(self) -> int | None:
    return None

  def encode_with_bytes(self, text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a UTF-8 text without sentinels, with byte offsets.

    Returns:
      The ids, int32 [n], and the offset of the last byte of each token, [n].
    """
    text = text.decode() if isinstance(text, bytes) else text
    encoding = self.tokenizer.encode(text, add_special_tokens=False)
    sizes = [len(character.encode()) for character in text]
    ends = np.cumsum([0, *sizes])  # The byte offset of each character.
    ids, last_bytes = self._encode(text), []
    for i, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True):
      # `_encode` drops text such as "<pad>".
      if len(last_bytes) < len(ids) and i + self.offset == ids[len(last_bytes)]:
        last_bytes.append(max(ends[begin], ends[end] - 1))
    # An added space may have an offset after the word that follows it.
    last_bytes = np.minimum.accumulate(last_bytes[::-1])[::-1]
    return np.array(ids, np.int32), last_bytes.astype(np.int32)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    return python_ops.encode(self._encode, s)

  def decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    """Decodes a vector of ids with `decode`."""
    return self._decode_tf(ids)

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    return python_ops.decode(self.decode, ids)

  def _recipe(self) -> tuple:
    return (
      self._path, self._given_extra_ids, self._eos, self._start, self._pieces,
      self._mask,
    )  # fmt: skip

  def __eq__(self, other) -> bool:
    if not isinstance(other, HuggingFaceTokenizer):
      return False
    return self._recipe() == other._recipe()

  def __hash__(self) -> int:
    return hash(self._recipe())

  def __str__(self) -> str:
    path, extra_ids, _, start, pieces, mask = self._recipe()
    added = f", start={start!r}" if start else ""
    added += f", {len(pieces)} pieces" if pieces else ""
    added += f", mask={mask!r}" if mask else ""
    return f"HuggingFaceTokenizer({path!r}, extra_ids={extra_ids}{added})"

  __repr__ = __str__
