"""Adds pieces to SentencePiece models and normalises their sentinels.

  in the file    <extra_id_0> or ▁<extra_id_0>; a normal or a control piece
  after          ▁<extra_id_0>, a user-defined piece with the same id

All models then encode sentinels as seqio does, where a sentinel includes the
space before it: "a <extra_id_0>" is two tokens, and "<extra_id_0>" is one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import sentencepiece
from google.protobuf import message
from sentencepiece import sentencepiece_model_pb2

from t5x_lite.data import sentinels as text_lib
from t5x_lite.files import text_files

_USER_DEFINED = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED


class Facts(NamedTuple):
  """Holds properties of a model.

  Attributes:
    sentinel_ids: the ids of <extra_id_0>, <extra_id_1>, ...
    adds_prefix: whether the model puts a space before each text.
  """

  sentinel_ids: tuple[int, ...]
  adds_prefix: bool


def prepare(
  serialized: bytes, path: str, pieces: Sequence[str] = ()
) -> tuple[bytes, int]:
  """Adds pieces to a model and normalises its sentinels.

  Args:
    serialized: the content of the file.
    path: of the file, for messages.
    pieces: texts that become one token each, with ids after those of the file.

  Returns:
    The model, which is `serialized` itself if nothing has changed, and the
    number of sentinels in the file.

  Raises:
    ValueError: the file is not a model; a piece exists already; or pieces are
      given for a model with sentinels.
  """
  load(serialized, path)
  model = sentencepiece_model_pb2.ModelProto.FromString(serialized)
  sentinels = _sentinels(model)
  if sentinels and sentinels[0] is None:
    raise ValueError(
      f"{path} has sentinels but no <extra_id_0>: their numbers must start at 0"
    )
  changed = bool(pieces)
  for number, index in enumerate(sentinels):
    piece, name = model.pieces[index], f"▁<extra_id_{number}>"
    if piece.piece != name or piece.type != _USER_DEFINED:
      piece.piece, piece.type, changed = name, _USER_DEFINED, True
  if pieces:
    _add(model, pieces, path)
  if not changed:
    return serialized, len(sentinels)
  return model.SerializeToString(deterministic=True), len(sentinels)


def with_sentinels(serialized: bytes, count: int) -> bytes:
  """Adds sentinels at the end of a model, as seqio does: the last id is 0's."""
  model = sentencepiece_model_pb2.ModelProto.FromString(serialized)
  for number in reversed(range(count)):
    model.pieces.add(
      piece=f"▁<extra_id_{number}>", score=0.0, type=_USER_DEFINED
    )
  return model.SerializeToString()


@functools.lru_cache(maxsize=16)
def facts(serialized: bytes) -> Facts:
  """Returns the properties of a prepared model."""
  model = sentencepiece_model_pb2.ModelProto.FromString(serialized)
  return Facts(
    sentinel_ids=tuple(_sentinels(model)),
    adds_prefix=model.normalizer_spec.add_dummy_prefix,
  )


def load(serialized: bytes, path: str) -> sentencepiece.SentencePieceProcessor:
  """Loads a model.

  Args:
    serialized: the content of the file.
    path: of the file, for messages.

  Raises:
    ValueError: the file is empty, cut short or something else.
  """
  model = sentencepiece.SentencePieceProcessor()
  try:
    sentencepiece_model_pb2.ModelProto.FromString(serialized)
    model.LoadFromSerializedProto(serialized)
    return model
  except (message.DecodeError, RuntimeError) as error:
    size = len(serialized)
    reason = "cut short or damaged" if size else "empty"
    raise ValueError(
      f"{path} ({size} bytes) is no SentencePiece model: it is {reason}"
    ) from error


def _sentinels(model) -> list[int | None]:
  """Returns the ids of <extra_id_0>, <extra_id_1>, ... up to the first gap.

  Returns [None] if there are sentinels but no <extra_id_0>.
  """
  found = {}
  for i, piece in enumerate(model.pieces):
    name = piece.piece
    match = text_lib.SENTINEL.fullmatch(name.removeprefix("▁"))
    # If a number has both spellings, seqio's is used.
    if match and (name.startswith("▁") or int(match[1]) not in found):
      found[int(match[1])] = i
  if found and 0 not in found:
    return [None]
  count = 0
  while count in found:
    count += 1
  return [found[number] for number in range(count)]


def _add(model, pieces: Sequence[str], path: str) -> None:
  if _sentinels(model):
    raise ValueError(f"{path} ends in sentinels: pieces cannot be added")
  known = {piece.piece for piece in model.pieces}
  for piece in pieces:
    text_files.check_text(piece, f"piece {piece!r}")
    # SentencePiece writes a space as "▁".
    spelling = piece.replace(" ", "▁")
    if not piece or spelling in known:
      raise ValueError(
        f"pieces ({', '.join(pieces)}) must be new and distinct: {path} has "
        f"{piece!r} already"
      )
    known.add(spelling)
    model.pieces.add(piece=spelling, type=_USER_DEFINED)
