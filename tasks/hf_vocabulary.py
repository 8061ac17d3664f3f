"""Reads Hugging Face's tokenizer.json as a vocabulary: BPE, WordPiece, Unigram.

  theirs   0 "!"  1 "\\""  ...  50256 "<|endoftext|>"
  ours     0 pad  1 "!"  ...  50257 EOS             then the extra ids

Id 0 means padding to seqio. Where it is a token of text, all ids are one more
than in the file, and a model that comes with it needs its rows moved alike.
"""

from __future__ import annotations

import functools
import pathlib
import re
from collections.abc import Sequence

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite import text_files

_SENTINEL = re.compile(r"<extra_id_(\d+)>")
_PAD = ("<pad>", "[PAD]", "<|pad|>", "<unk>", "[UNK]")
_EOS = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "[SEP]")
_UNK = ("<unk>", "[UNK]", "<|unk|>")


class HuggingFaceTokenizer(seqio.Vocabulary):
  """A tokenizer.json with pad 0, an EOS, and sentinels as the last ids.

  Text is encoded without the special tokens that the file would add. Sentinels
  that the file has itself, as T5's, are used; otherwise `extra_ids` are added.
  """

  def __init__(
    self,
    path: str,
    *,
    extra_ids: int = 100,
    eos: str | None = None,
    start: str | None = None,
    pieces: Sequence[str] = (),
  ):
    """Names the file; reads it on the first use.

    Args:
      path: of tokenizer.json.
      extra_ids: the number of sentinels, where the file has none.
      eos: the token at the end of sequences; None finds it by its name.
      start: the token that decoders start from, "<s>" say; None is id 0.
      pieces: new tokens, which get ids after those of the file.
    """
    self._path = str(path)
    self._eos = eos
    self._start = start
    self._pieces = tuple(pieces)
    self._given_extra_ids = extra_ids
    super().__init__(extra_ids=0)

  @functools.cached_property
  def tokenizer(self):
    """Returns the `tokenizers.Tokenizer`, new pieces added."""
    try:
      import tokenizers
    except ImportError:
      raise ValueError(
        f"reading {self._path} needs the package `tokenizers`: "
        "pip install 't5x_lite[hf]'"
      ) from None
    if not pathlib.Path(self._path).is_file():
      raise ValueError(f"no tokenizer at {self._path!r}")
    try:
      tokenizer = tokenizers.Tokenizer.from_file(self._path)
    except Exception as error:  # The package raises Exception itself.
      raise ValueError(f"cannot read {self._path}: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if self._pieces:
      if _sentinels_within(tokenizer):
        raise ValueError(
          f"{self._path} ends in sentinels: pieces cannot come after them"
        )
      known = tokenizer.get_vocab()
      present = [piece for piece in self._pieces if piece in known]
      if present or len(set(self._pieces)) < len(self._pieces):
        raise ValueError(
          f"pieces must be new and differ: {', '.join(present) or self._pieces}"
        )
      tokenizer.add_tokens(list(self._pieces))
    return tokenizer

  @functools.cached_property
  def offset(self) -> int:
    """Returns how much more our ids are than the file's: 0 or 1.

    0 where id 0 is no token of text, even if it is not for padding (OPT's
    "<s>"): what it is called makes no difference.
    """
    first = self.tokenizer.id_to_token(0)
    special = self.tokenizer.get_added_tokens_decoder().get(0)
    is_text = special is None or not special.special
    ends = (self._eos,) if self._eos else _EOS
    return int(first not in _PAD and (is_text or first in ends))

  @property
  def extra_ids(self) -> int:
    return _sentinels_within(self.tokenizer) or self._given_extra_ids

  @property
  def _base_vocab_size(self) -> int:
    highest = max(self.tokenizer.get_vocab().values())
    return highest + 1 + self.offset - _sentinels_within(self.tokenizer)

  @property
  def vocab_size(self) -> int:
    return self._base_vocab_size + self.extra_ids

  @functools.cached_property
  def unused_ids(self) -> frozenset[int]:
    """Returns the ids between others that stand for no token."""
    known = {i + self.offset for i in self.tokenizer.get_vocab().values()}
    return frozenset(range(1, self._base_vocab_size)) - known

  @property
  def bos_id(self) -> int | None:
    return None

  @functools.cached_property
  def eos_id(self) -> int:
    names = (self._eos,) if self._eos else _EOS
    found = self._first(names)
    if found is None:
      raise ValueError(
        f"{self._path} has no token {' or '.join(names)}: name its end of "
        "sequence (eos=...)"
      )
    return found

  @functools.cached_property
  def start_id(self) -> int:
    """Returns the token before the first one that a decoder predicts."""
    if self._start is None:
      return 0
    found = self._first((self._start,))
    if found is None:
      raise ValueError(
        f"{self._path} has no token {self._start!r} to start from (start=...)"
      )
    return found

  @functools.cached_property
  def unk_id(self) -> int | None:
    return self._first(_UNK)

  def _first(self, names: Sequence[str]) -> int | None:
    ids = map(self.tokenizer.token_to_id, names)
    return next((i + self.offset for i in ids if i is not None), None)

  def _encode(self, s: str) -> Sequence[int]:
    text_files.check_text(s, "the text")
    text, *rest = _SENTINEL.split(s)
    ids = self._encode_text(text)
    for number, text in zip(rest[::2], rest[1::2], strict=True):
      if int(number) < self.extra_ids:
        ids.append(self.vocab_size - 1 - int(number))
      else:
        ids += self._encode_text(f"<extra_id_{number}>")
      ids += self._encode_text(text)
    return ids

  def _encode_text(self, text: str) -> list[int]:
    if not text:
      return []
    ids = self.tokenizer.encode(text, add_special_tokens=False).ids
    # Text that spells the padding token out: packing would stop at its id.
    return [i + self.offset for i in ids if i + self.offset]

  def encode_with_bytes(self, text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a text without sentinels, in UTF-8.

    Returns:
      The ids, int32 [n], and the last bytes of the text that they stand for.
    """
    text = tf.compat.as_text(text)
    encoding = self.tokenizer.encode(text, add_special_tokens=False)
    sizes = [len(character.encode()) for character in text]
    ends = np.cumsum([0, *sizes])  # of characters, before each
    ids, last_bytes = self._encode(text), []
    for i, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True):
      # `encode` leaves some out: text that spells the padding token.
      if len(last_bytes) < len(ids) and i + self.offset == ids[len(last_bytes)]:
        last_bytes.append(max(ends[begin], ends[end] - 1))
    return np.array(ids, np.int32), np.array(last_bytes, np.int32)

  def _decode(self, ids) -> str:
    parts, run = [], []
    for i in [*map(int, ids), self.vocab_size]:
      if i < self._base_vocab_size:
        run.append(i - self.offset)
      else:
        parts.append(self.tokenizer.decode(run, skip_special_tokens=True))
        parts.append(f"<extra_id_{self.vocab_size - 1 - i}>")
        run = []
    return "".join(parts[:-1])

  def decode(self, ids) -> str:
    """Decodes up to the first EOS, with sentinels as <extra_id_N>."""
    # A model's vocabulary may be padded beyond ours; 0 is no text.
    ids = [int(i) for i in ids if 0 < i < self.vocab_size]
    if self.eos_id in ids:
      ids = ids[: ids.index(self.eos_id)]
    return self._decode(ids)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    def encode(text) -> np.ndarray:
      # Bytes in a graph; outside of one an array that holds them. An array
      # made of bytes would lose the NULs at their end.
      text = text.item() if isinstance(text, np.ndarray) else text
      return np.array(self._encode(tf.compat.as_text(text)), np.int32)

    # Not stateful: the same text gives the same ids, so that the position of
    # an iterator can be saved.
    ids = tf.numpy_function(encode, [s], tf.int32, stateful=False)
    return tf.ensure_shape(ids, [None])

  def decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    """Decodes a vector as `decode` does."""
    return self._decode_tf(ids)

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    text = tf.numpy_function(
      lambda row: self.decode(row).encode(), [ids], tf.string, stateful=False
    )
    return tf.ensure_shape(text, [])

  def _recipe(self) -> tuple:
    return (
      self._path, self._given_extra_ids, self._eos, self._start, self._pieces,
    )  # fmt: skip

  def __eq__(self, other) -> bool:
    if not isinstance(other, HuggingFaceTokenizer):
      return False
    return self._recipe() == other._recipe()

  def __hash__(self) -> int:
    return hash(self._recipe())

  def __str__(self) -> str:
    path, extra_ids, _, start, pieces = self._recipe()
    added = f", start={start!r}" if start else ""
    added += f", {len(pieces)} pieces" if pieces else ""
    return f"HuggingFaceTokenizer({path!r}, extra_ids={extra_ids}{added})"

  __repr__ = __str__


def _sentinels_within(tokenizer) -> int:
  """Counts the sentinels at the end of the ids, <extra_id_0> the last."""
  last = max(tokenizer.get_vocab().values())
  count = 0
  while tokenizer.id_to_token(last - count) == f"<extra_id_{count}>":
    count += 1
  return count
