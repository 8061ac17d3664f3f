"""Returns the bytes of text of each token of a vocabulary.

  SentencePiece    ▁cat       " cat"       <0xE7>   b"\\xe7"
  byte-level BPE   Ġcat       " cat"       ç        b"\\xe7"

The concatenated bytes of a text's tokens are the text after the tokenizer's
normalisation. Tokens whose text is not known (sentinels, the unknown token,
WordPiece's words, which lose the space between them) are the byte 0xFF, which
does not occur in UTF-8.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import seqio

from t5x_lite.data import sentinels
from tasks import hf_vocabulary

NO_TEXT = b"\xff"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def table(vocabulary: seqio.Vocabulary) -> list[bytes]:
  """Returns the bytes of each id of a vocabulary, at least one per id."""
  found = [NO_TEXT] * vocabulary.vocab_size
  for i, piece in _pieces(vocabulary):
    found[i] = piece or NO_TEXT
  return found


def _pieces(vocabulary) -> Iterator[tuple[int, bytes]]:
  if isinstance(vocabulary, seqio.ByteVocabulary):
    first = vocabulary.encode(" ")[0] - ord(" ")
    for i in range(256):
      yield first + i, bytes([i])
  elif isinstance(vocabulary, seqio.SentencePieceVocabulary):
    yield from _sentencepiece(vocabulary.tokenizer)
  elif isinstance(vocabulary, hf_vocabulary.HuggingFaceTokenizer):
    for i, piece in _tokenizer_json(vocabulary.tokenizer):
      yield i + vocabulary.offset, piece


def _sentencepiece(model) -> Iterator[tuple[int, bytes]]:
  for i in range(model.GetPieceSize()):
    piece = model.IdToPiece(i)
    if model.IsByte(i):
      yield i, _byte(piece)
    elif not (
      model.IsControl(i)
      or model.IsUnknown(i)
      or sentinels.SENTINEL.fullmatch(piece.removeprefix("▁"))
    ):
      yield i, _with_spaces(piece)


def _tokenizer_json(tokenizer) -> Iterator[tuple[int, bytes]]:
  decoder = set(_types(json.loads(tokenizer.to_str())["decoder"]))
  added = tokenizer.get_added_tokens_decoder()
  alphabet = _byte_level_alphabet()
  for piece, i in tokenizer.get_vocab().items():
    if i in added:
      continue
    if "ByteLevel" in decoder:
      # Pieces with other characters do not occur in encoded text.
      yield i, bytes(alphabet.get(c, NO_TEXT[0]) for c in piece)
    elif "ByteFallback" in decoder and _BYTE.fullmatch(piece):
      yield i, _byte(piece)
    elif decoder & {"Metaspace", "Replace"}:
      yield i, _with_spaces(piece)


def _types(part: Any) -> Iterator[str]:
  """Yields the types of a decoder's steps."""
  if isinstance(part, dict):
    yield part.get("type")
    part = part.get("decoders", ())
  for step in part or ():
    yield from _types(step)


def _byte(piece: str) -> bytes:
  return bytes([int(_BYTE.fullmatch(piece)[1], 16)])


def _with_spaces(piece: str) -> bytes:
  return piece.replace("▁", " ").encode()


def _byte_level_alphabet() -> dict[str, int]:
  """Returns {character: byte} of GPT-2's byte-level BPE.

  Printable Latin-1 characters are their own bytes; the remaining bytes are the
  characters from U+0100 on.
  """
  printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  others = [byte for byte in range(256) if byte not in printing]
  return {chr(byte): byte for byte in printing} | {
    chr(256 + i): byte for i, byte in enumerate(others)
  }
