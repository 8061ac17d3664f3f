"""Prepares SentencePiece models: new pieces, and sentinels wherever they are.

  in a file            <extra_id_0>   ▁<extra_id_0>, a normal piece, a control
  as it is used here   ▁<extra_id_0>, a piece of the user, at the same id

so that every model reads sentinels as seqio's do, which holds the space before
them: "a <extra_id_0>" is two tokens, and "<extra_id_0>" one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
from sentencepiece import sentencepiece_model_pb2

from t5x_lite.data import sentinels as text_lib
from t5x_lite.files import text_files
from tasks import cache

_USER_DEFINED = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED


class Prepared(NamedTuple):
  """A model that is ready for use.

  Attributes:
    path: of the file itself or, where something changed, of one in the cache.
    num_sentinels: of those within the file.
  """

  path: str
  num_sentinels: int


class Facts(NamedTuple):
  """What is known of a model.

  Attributes:
    sentinel_ids: of <extra_id_0>, <extra_id_1>, ...
    adds_prefix: whether a text is read as if a space stood before it.
  """

  sentinel_ids: tuple[int, ...]
  adds_prefix: bool


@functools.lru_cache
def prepare(path: str, pieces: Sequence[str] = ()) -> Prepared:
  """Adds pieces to a model and makes its sentinels what they are here.

  Args:
    path: of the model.
    pieces: texts, each of which becomes one token wherever it stands, with ids
      after those of the file.

  Raises:
    ValueError: the file is no model; a piece is there already, or the model has
      sentinels, which no pieces follow.
  """
  with tf.io.gfile.GFile(path, "rb") as file:
    serialized = file.read()
  model = sentencepiece_model_pb2.ModelProto.FromString(serialized)
  sentinels = _sentinels(model)
  if sentinels and sentinels[0] is None:
    raise ValueError(
      f"{path} has sentinels but no <extra_id_0>: their numbers must begin "
      "with 0"
    )
  changed = False
  for number, index in enumerate(sentinels):
    piece, name = model.pieces[index], f"▁<extra_id_{number}>"
    if piece.piece != name or piece.type != _USER_DEFINED:
      piece.piece, piece.type, changed = name, _USER_DEFINED, True
  if pieces:
    _add(model, pieces, path)
  if not changed and not pieces:
    return Prepared(path, len(sentinels))
  serialized = model.SerializeToString(deterministic=True)
  made = cache.directory() / f"{cache.digest([serialized])}.model"
  if not made.exists():
    with cache.write_atomic(made) as temporary:
      temporary.write_bytes(serialized)
  return Prepared(str(made), len(sentinels))


@functools.lru_cache(maxsize=16)
def facts(serialized: bytes) -> Facts:
  """Reads a prepared model."""
  model = sentencepiece_model_pb2.ModelProto.FromString(serialized)
  return Facts(
    sentinel_ids=tuple(_sentinels(model)),
    adds_prefix=model.normalizer_spec.add_dummy_prefix,
  )


def _sentinels(model) -> list[int | None]:
  """Returns the ids of <extra_id_0>, <extra_id_1>, ... up to one that lacks.

  None is that of <extra_id_0> where there are others, but not that.
  """
  found = {}
  for i, piece in enumerate(model.pieces):
    name = piece.piece
    match = text_lib.SENTINEL.fullmatch(name.removeprefix("▁"))
    # Where a number has both spellings, seqio's is meant.
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
    raise ValueError(f"{path} ends in sentinels: pieces cannot come after them")
  known = {piece.piece for piece in model.pieces}
  for piece in pieces:
    text_files.check_text(piece, f"piece {piece!r}")
    # A space within a model.
    spelling = piece.replace(" ", "▁")
    if not piece or spelling in known:
      raise ValueError(
        f"pieces ({', '.join(pieces)}) must be new and differ: {piece!r} is "
        f"there already in {path}"
      )
    known.add(spelling)
    model.pieces.add(piece=spelling, type=_USER_DEFINED)
