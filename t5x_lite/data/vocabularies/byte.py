"""Encodes text as bytes: ByT5's vocabulary, with sentinels."""

from collections.abc import Iterable, Sequence

from t5x_lite.data import sentinels
from t5x_lite.files import text_files

# As in ByT5: 3 special ids + 256 bytes + 125 extra ids = 384.
EXTRA_IDS = 125
FIRST, END = 3, 3 + 256


class Bytes:
  """Encodes text as bytes, and <extra_id_N> in the text as one sentinel.

  Ids: pad 0, EOS 1, unk 2, then the 256 bytes, then the extra ids, 384 in all.
  """

  eos_id = 1
  unk_id = 2

  def __init__(self, *, extra_ids: int = EXTRA_IDS):
    self._extra_ids = extra_ids

  @property
  def extra_ids(self) -> int:
    """Returns the number of sentinels."""
    return self._extra_ids

  @property
  def vocab_size(self) -> int:
    """Returns the number of ids, sentinels included."""
    return END + self.extra_ids

  def encode(self, s: str) -> Sequence[int]:
    """Returns the ids of a text, without EOS."""
    return self._encode(s)

  def _encode(self, s: str | bytes) -> Sequence[int]:
    s = s.decode() if isinstance(s, bytes) else s
    text_files.check_text(s, "the text")
    known = sentinels.sentinel_ids(self)
    text, *rest = sentinels.SENTINEL.split(s)
    ids = _of_bytes(text)
    for number, text in zip(rest[::2], rest[1::2], strict=True):
      if int(number) < len(known):
        ids.append(known[int(number)])
      else:
        ids += _of_bytes(f"<extra_id_{number}>")
      ids += _of_bytes(text)
    return ids

  def decode(self, ids: Iterable[int]) -> str:
    """Decodes up to the first EOS, with sentinels as <extra_id_N>."""
    # A model may have more ids than the vocabulary, as padding.
    ids = [int(i) for i in ids if i < self.vocab_size]
    if self.eos_id in ids:
      ids = ids[: ids.index(self.eos_id)]
    parts, first = [], 0
    for i, token in enumerate([*ids, self.vocab_size]):
      if token >= END:
        parts.append(_text(ids[first:i]))
        parts.append(f"<extra_id_{self.vocab_size - 1 - token}>")
        first = i + 1
    return "".join(parts[:-1])


def _of_bytes(text: str) -> list[int]:
  return [byte + FIRST for byte in text.encode()]


def _text(ids: Sequence[int]) -> str:
  """Returns the text of bytes; special ids and incomplete characters vanish."""
  raw = bytes(i - FIRST for i in ids if FIRST <= i < END)
  return raw.decode(errors="ignore")
