"""Says which bytes each token of a vocabulary stands for in decoded text.

SentencePiece   ▁the       first "the"   later " the"
                <0xE2>     first E2      later E2
byte-level BPE  Ġthe       first " the"  later " the"
bytes           <extra_id_0>, as it is spelled
"""

import functools
import json
import re
from typing import NamedTuple

from t5x_lite.data import sentinels
from t5x_lite.data.vocabularies import byte, tokenizer_json

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes(NamedTuple):
  """The bytes of each id; b"" for ids that are no text, such as EOS.

  first: of a token that begins a text, where SentencePiece drops a space.
  later: of a token after others.
  """

  first: tuple[bytes, ...]
  later: tuple[bytes, ...]


# Results by the identity of vocabularies, which need not be hashable.
_kept: dict[int, tuple[sentinels.Vocabulary, TokenBytes]] = {}


def token_bytes(vocabulary: sentinels.Vocabulary) -> TokenBytes:
  """Returns the bytes of each id below vocab_size.

  The first call decodes every id, and the result is kept.

  Raises:
    ValueError: what a token stands for depends on more than whether it is the
      first, or the vocabulary is of an unknown kind.
  """
  if id(vocabulary) not in _kept:
    # What is kept with it keeps the identity from being another's.
    _kept[id(vocabulary)] = vocabulary, _token_bytes(vocabulary)
  return _kept[id(vocabulary)][1]


def _token_bytes(vocabulary) -> TokenBytes:
  if hasattr(getattr(vocabulary, "tokenizer", None), "PieceToId"):
    known = _of_pieces(vocabulary.tokenizer)
  elif isinstance(vocabulary, tokenizer_json.TokenizerJson):
    known = _of_tokenizer(vocabulary)
  elif isinstance(vocabulary, byte.Bytes):
    known = {i: b"" for i in range(byte.FIRST)}
    known |= {i: bytes([i - byte.FIRST]) for i in range(byte.FIRST, byte.END)}
  else:
    raise _unsuitable(vocabulary)
  decode, ids = vocabulary.decode, range(vocabulary.vocab_size)
  # Ids whose bytes may be part of a character are known; others are decoded.
  before = next(i for i in ids if re.fullmatch("[0-9A-Za-z]+", decode([i])))
  text = decode([before])
  first, later = [], []
  for i in ids:
    if i in known:
      first.append(known[i])
      later.append(known[i])
    else:
      first.append(decode([i]).encode())
      later.append(decode([before, i]).removeprefix(text).encode())
  return TokenBytes(tuple(first), tuple(later))


def _of_pieces(pieces) -> dict[int, bytes]:
  known = {}
  for i in range(pieces.GetPieceSize()):
    if pieces.IsByte(i):
      known[i] = _of_byte_piece(pieces.IdToPiece(i))
    elif pieces.IsControl(i) or pieces.IsUnknown(i) or pieces.IsUnused(i):
      known[i] = b""
  return known


def _of_tokenizer(vocabulary) -> dict[int, bytes]:
  tokenizer = vocabulary.tokenizer
  decoder = json.loads(tokenizer.to_str())["decoder"] or {}
  parts = decoder.get("decoders", [decoder])
  kinds = {part.get("type") for part in parts}
  pieces = {
    i + vocabulary.offset: piece for piece, i in tokenizer.get_vocab().items()
  }
  if kinds == {"ByteLevel"}:
    # A special token is decoded as nothing.
    return {
      i: _of_letters(piece) if vocabulary.decode([i]) else b""
      for i, piece in pieces.items()
    }
  if not kinds <= {"ByteFallback", "Fuse", "Metaspace", "Replace", "Strip"}:
    raise _unsuitable(vocabulary)
  found = {
    i: _of_byte_piece(piece)
    for i, piece in pieces.items()
    if "ByteFallback" in kinds and _BYTE_PIECE.fullmatch(piece)
  }
  # Those of whole characters are decoded: the first loses its space.
  return {i: part for i, part in found.items() if part >= b"\x80"}


def _of_byte_piece(piece: str) -> bytes:
  return bytes([int(_BYTE_PIECE.fullmatch(piece)[1], 16)])


def _of_letters(piece: str) -> bytes:
  """Returns the bytes that byte-level BPE writes as letters."""
  letters = _byte_letters()
  if any(letter not in letters for letter in piece):
    return piece.encode()  # An added token, which is as it is.
  return bytes(letters[letter] for letter in piece)


@functools.cache
def _byte_letters() -> dict[str, int]:
  """Returns {letter: byte} of GPT-2's byte-level BPE.

  Printable bytes are themselves; the others follow from U+0100 on (Radford et
  al. 2019, `bytes_to_unicode` in openai/gpt-2's encoder.py).
  """
  printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
  others = [byte for byte in range(256) if byte not in printable]
  found = {chr(byte): byte for byte in printable}
  return found | {chr(256 + n): byte for n, byte in enumerate(others)}


def _unsuitable(vocabulary):
  return ValueError(
    f"the tokens of vocabulary {vocabulary!r:.120} have no text of their own: "
    "regex and json_schema need one of bytes, SentencePiece, or a "
    "tokenizer.json of byte-level BPE, Metaspace or byte fallback"
  )
