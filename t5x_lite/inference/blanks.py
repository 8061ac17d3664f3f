"""Blanks: how a prompt is written, and what fills its blanks.

    Sentinels   a <extra_id_0> c <extra_id_1>    "<extra_id_0> b <extra_id_1> d"
                                                 is generated (span corruption),
                                                 or the text goes on (LMs)
    Masks       a [M] c [M]                      each mask is one token (MLM)
    Spans       a [M] c [M]                      "b $ d $" is generated (GLM)

`RowFormat.blanks` says which of them an architecture has for a task.
"""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from t5x_lite import decoding
from t5x_lite.data import sentinels
from t5x_lite.row_formats import RowFormat

_UNDERSCORES = re.compile(r"_{3,}")
_NONE = np.zeros(0, np.int32)


class Codec(Protocol):
  """Encodes and decodes texts; see `codec.Codec`."""

  targets: Any

  def encode(
    self, name: str, content: str, place: str, limit: int
  ) -> np.ndarray: ...

  def decode(self, ids: Sequence[int]) -> str: ...


class Blanks(Protocol):
  """Says how a prompt is written, and what fills its blanks.

  Attributes:
    is_free: whether a prediction is a text of its own, which any strategy may
      generate, and which may stop at a string.
  """

  is_free: ClassVar[bool]

  def mark(self, text: str) -> str:
    """Replaces ___ by sentinels: "a ___ b" -> "a <extra_id_0> b"."""

  def encode(
    self, codec: Codec, text: str, place: str, limit: int
  ) -> Mapping[str, np.ndarray]:
    """Returns the example of a prompt of at most `limit` tokens.

    Raises:
      ValueError: the text is too long, or lacks a blank; names `place`.
    """

  def strategy(
    self, sampler: decoding.Strategy, vocabulary: Any
  ) -> decoding.Strategy:
    """Returns what generates, given what chooses tokens."""

  def drawable(self, vocabulary: Any) -> np.ndarray:
    """Returns which ids may be generated, bool [ids]."""

  def decoder_positions(self, lengths: Mapping[str, int]) -> int:
    """Returns the positions that a decoder needs for inputs and targets."""

  def prompts(
    self,
    row_format: RowFormat,
    batch: Mapping[str, np.ndarray],
    vocabulary: Any,
  ) -> dict[str, np.ndarray]:
    """Returns the part of a batch of examples that generation may see.

    `encode` and `rows.lay_out` make the same of a text.
    """


class Sentinels:
  """Numbered sentinels, which the prediction repeats; or no blanks at all."""

  is_free = True

  def mark(self, text: str) -> str:
    """Replaces ___ by sentinels, unless the text has sentinels already."""
    return text if sentinels.has_sentinels(text) else _numbered(text)

  def encode(self, codec, text, place, limit):
    ids = codec.encode("inputs", text, place, limit)
    return {"inputs": ids, "targets": _NONE}

  def strategy(self, sampler, vocabulary):
    del vocabulary
    return sampler

  def drawable(self, vocabulary):
    return sentinels.known_ids(vocabulary)

  def decoder_positions(self, lengths):
    return sum(lengths.values())

  def prompts(self, row_format, batch, vocabulary):
    del vocabulary
    return row_format.prompts(batch)

  def fill(self, codec: Codec, text: str, prediction: str) -> dict[str, str]:
    """Returns a prediction, with the "filled" text if there are blanks."""
    if not sentinels.has_sentinels(text):
      return {"prediction": prediction}
    filled = sentinels.fill(codec.targets.vocabulary, text, prediction)
    return {"prediction": prediction, "filled": filled}


class Masks:
  """Masks of one token each, which an encoder fills in place.

  They are written ___, <extra_id_N> whatever N, or as the vocabulary writes its
  mask, such as [MASK]. The prediction is the filled text.
  """

  is_free = False

  def mark(self, text: str) -> str:
    """Replaces ___ by sentinels."""
    return _numbered(text)

  def encode(self, codec, text, place, limit):
    ids, is_mask = self._ids(codec, text, place, limit)
    if not is_mask.any():
      raise ValueError(
        f"{place}: the text has no blank to fill: write ___ for each missing "
        "token"
      )
    return {"inputs": ids, "targets": ids, "weights": np.int32(is_mask)}

  def strategy(self, sampler, vocabulary):
    del vocabulary
    return decoding.EasyFirst(sampler=sampler)

  def drawable(self, vocabulary):
    return sentinels.text_ids(vocabulary)

  def decoder_positions(self, lengths):
    return sum(lengths.values())

  def prompts(self, row_format, batch, vocabulary):
    """Returns the texts, of which what is masked is to be filled in.

    Training also scores tokens that stand there, kept or random ones: they are
    part of the text.
    """
    prompts = row_format.prompts(batch)
    _, mask_id = sentinels.mask(vocabulary)
    is_mask = prompts["encoder_input_tokens"] == mask_id
    return prompts | {"encoder_loss_weights": np.int32(is_mask)}

  def texts(
    self,
    codec: Codec,
    text: str,
    tokens: Sequence[int],
    *,
    ends: Collection[int],
    limit: int,
  ) -> dict[str, str]:
    """Returns the prediction and the filled text.

    Args:
      codec: as of `encode`.
      text: the prompt.
      tokens: what was generated.
      ends: the ids that end a text.
      limit: as of `encode`.
    """
    ids, is_mask = self._ids(codec, text, "", limit)
    predicted, _ = self.answer(ids, is_mask, tokens, ends)
    filled = codec.decode(predicted)
    return {"prediction": filled, "filled": filled}

  def answer(
    self,
    ids: np.ndarray,
    is_blank: np.ndarray,
    tokens: Sequence[int],
    ends: Collection[int],
  ) -> tuple[list[int], list[int]]:
    """Returns the ids of the prediction and of the filled text, the same.

    Args:
      ids: of the prompt.
      is_blank: which of them are blanks.
      tokens: what was generated; masks for which there are none stay.
      ends: the ids that end a text.
    """
    del ends
    filled, (places,) = ids.tolist(), np.nonzero(is_blank)
    for place, token in zip(places, tokens, strict=False):
      filled[place] = int(token)
    return filled, filled

  def _ids(self, codec, text, place, limit):
    """Returns the ids of a text, and which of them are the mask."""
    mask, mask_id = sentinels.mask(codec.targets.vocabulary)
    text = sentinels.SENTINEL.sub(lambda _: mask, _numbered(text))
    ids = codec.encode("inputs", text, place, limit)
    return ids, ids == mask_id


class Spans:
  """Blanks that a decoder fills one after the other, with any tokens (GLM).

  A blank is written ___ or <extra_id_0>; of models that were trained on missing
  sentences or ends of documents, <extra_id_1> or <extra_id_2> (tasks/glm.py).
  The prediction repeats the sentinel of each blank that was filled.
  """

  is_free = False

  def mark(self, text: str) -> str:
    """Replaces ___ by <extra_id_0>."""
    return _UNDERSCORES.sub("<extra_id_0>", text)

  def encode(self, codec, text, place, limit):
    ids, is_blank = self._ids(codec, text, place, limit)
    if not is_blank.any():
      raise ValueError(f"{place}: the text has no blank to fill: write ___")
    (places,) = np.nonzero(is_blank)
    return {"inputs": ids, "targets": _NONE, "positions": np.int32(places)}

  def strategy(self, sampler, vocabulary):
    start_id = getattr(vocabulary, "start_id", 0)
    return decoding.BlankByBlank(start_id=start_id, sampler=sampler)

  def drawable(self, vocabulary):
    return sentinels.known_ids(vocabulary)

  def decoder_positions(self, lengths):
    return lengths["inputs"]  # What fills a blank has the blank's position.

  def prompts(self, row_format, batch, vocabulary):
    prompts = row_format.prompts(batch)
    blanks = sentinels.sentinel_ids(vocabulary)
    is_blank = np.isin(prompts["decoder_input_tokens"], blanks)
    return prompts | {"decoder_loss_weights": np.int32(is_blank)}

  def texts(
    self,
    codec: Codec,
    text: str,
    tokens: Sequence[int],
    *,
    ends: Collection[int],
    limit: int,
  ) -> dict[str, str]:
    """Returns the prediction and the filled text; see `Masks.texts`."""
    ids, is_blank = self._ids(codec, text, "", limit)
    predicted, filled = self.answer(ids, is_blank, tokens, ends)
    return {
      "prediction": codec.decode(predicted).strip(),
      "filled": codec.decode(filled),
    }

  def answer(
    self,
    ids: np.ndarray,
    is_blank: np.ndarray,
    tokens: Sequence[int],
    ends: Collection[int],
  ) -> tuple[list[int], list[int]]:
    """Returns the ids of the prediction and of the filled text.

    A blank for which no tokens are left stays a blank; see `Masks.answer`.
    """
    spans = _split(tokens, ends)
    filled, predicted = [], []
    for token, is_here in zip(ids.tolist(), is_blank, strict=True):
      span = next(spans, None) if is_here else None
      filled += [token] if span is None else span
      predicted += [] if span is None else [token, *span]
    return predicted, filled

  def _ids(self, codec, text, place, limit):
    """Returns the ids of a text, and which of them are blanks."""
    ids = codec.encode("inputs", self.mark(text), place, limit)
    return ids, np.isin(ids, sentinels.sentinel_ids(codec.targets.vocabulary))


def _numbered(text: str) -> str:
  """Returns a text with <extra_id_0>, <extra_id_1>, ... in place of ___."""
  numbers = itertools.count()
  return _UNDERSCORES.sub(lambda _: f"<extra_id_{next(numbers)}>", text)


def _split(tokens, ends):
  """Yields what stands before each end, and after the last one if anything."""
  span = []
  for token in tokens:
    if token in ends:
      yield span
      span = []
    else:
      span.append(token)
  if span:
    yield span


SENTINELS = Sentinels()
# By the names of `RowFormat.blanks`.
KINDS = {"sentinels": SENTINELS, "masks": Masks(), "spans": Spans()}
