"""Encodes text by a SentencePiece model, with sentinels also within words."""

import functools
from collections.abc import Iterable, Sequence

import sentencepiece

from t5x_lite.data import sentinels
from t5x_lite.data.vocabularies import sentencepiece_models
from t5x_lite.files import text_files


class Pieces:
  """Finds special ids of a SentencePiece model, and encodes by it.

  A base class of vocabularies, which have these attributes:

    sp_model: the prepared model (sentencepiece_models.py), serialized.
    tokenizer: the `SentencePieceProcessor` of it.
    sentencepiece_model_file: the name of the file, for messages.
  """

  _start: str | None = None

  @property
  def sentinel_ids(self) -> tuple[int, ...]:
    """Returns the ids of <extra_id_0>, <extra_id_1>, ..."""
    return sentencepiece_models.facts(self.sp_model).sentinel_ids

  @property
  def extra_ids(self) -> int:
    """Returns the number of sentinels, of the file or added."""
    return len(self.sentinel_ids)

  @property
  def eos_id(self) -> int | None:
    """Returns the id of EOS; None if the model has none."""
    found = self.tokenizer.eos_id()
    return None if found < 0 else found

  @property
  def start_id(self) -> int:
    """Returns the id of the decoder's start token."""
    if self._start is None:
      return 0
    found = self.tokenizer.PieceToId(self._start)
    if self.tokenizer.IdToPiece(found) != self._start:
      raise ValueError(
        f"{self.sentencepiece_model_file} has no piece {self._start!r} to "
        "start from (start=...)"
      )
    return found

  @property
  def needs_space_at_start(self) -> bool:
    """Returns whether a sentinel at the start of a text needs a space.

    It does if the model does not add a prefix space.
    """
    return not sentencepiece_models.facts(self.sp_model).adds_prefix

  def _encode(self, s: str) -> Sequence[int]:
    text_files.check_text(s, "the text")
    at_start = self.needs_space_at_start
    s = sentinels.spaced(s, self.extra_ids, at_start=at_start)
    return self.tokenizer.EncodeAsIds(s)


class SentencePiece(Pieces):
  """Encodes and decodes by a prepared model, as seqio does.

  U+2581 in a text is decoded as a space, since SentencePiece does not
  distinguish the two.
  """

  def __init__(self, serialized: bytes, *, path: str, start: str | None = None):
    """Stores the model.

    Args:
      serialized: the prepared model.
      path: of its file, for messages.
      start: the decoder's start token, such as LLaMA's "<s>"; None means id 0.
    """
    self.sp_model = serialized
    self.sentencepiece_model_file = path
    self._start = start

  @functools.cached_property
  def tokenizer(self) -> sentencepiece.SentencePieceProcessor:
    """Returns the processor of the model."""
    return sentencepiece_models.load(
      self.sp_model, self.sentencepiece_model_file
    )

  @property
  def unk_id(self) -> int:
    """Returns the id of the unknown token."""
    return self.tokenizer.unk_id()

  @property
  def vocab_size(self) -> int:
    """Returns the number of ids, sentinels included."""
    return self.tokenizer.GetPieceSize()

  def encode(self, s: str) -> Sequence[int]:
    """Returns the ids of a text, without EOS."""
    return self._encode(s)

  def decode(self, ids: Iterable[int]) -> str:
    """Decodes up to the first EOS; ids beyond the model's are unknown."""
    ids = [int(i) for i in ids]
    ids = [i if i < self.vocab_size else self.unk_id for i in ids]
    if self.eos_id is not None and self.eos_id in ids:
      ids = ids[: ids.index(self.eos_id) + 1]
    return self.tokenizer.DecodeIds(ids)
