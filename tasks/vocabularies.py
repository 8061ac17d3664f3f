"""Defines SentencePiece vocabularies, including ones trained on first use.

All are seqio vocabularies that read or train their model on first use.
Sentinels are the last ids, descending, so <extra_id_0> is the last id, unless
the file has its own (`t5x_lite.data.sentinels.sentinel_ids` returns them). In
text, <extra_id_0> is encoded as one token, in Python and in TensorFlow.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Protocol

import seqio
import tensorflow as tf
from absl import logging

from t5x_lite.data import sentinels as text_lib
from t5x_lite.data.vocabularies import sentence_pieces, sentencepiece_models
from tasks import cache, hf_vocabulary, sentencepiece_training
from tasks.byte_vocabulary import Bytes

EXTRA_IDS = 100
# With EXTRA_IDS these pieces make 4,096 ids.
TRAINED_PIECES = 3996
_TRAINING_BYTES = 2_000_000


class SentencePiece(sentence_pieces.Pieces, seqio.SentencePieceVocabulary):
  """Encodes text by a SentencePiece model, with sentinels also within words.

  seqio's sentinel pieces begin with "▁" (a space), so seqio finds no sentinel
  in "un<extra_id_0>able". Here it is encoded as in training: "un", sentinel,
  "able". U+2581 in a text is decoded as a space, since SentencePiece does not
  distinguish the two.
  """

  recorded_kind = "sentencepiece"

  def __init__(
    self,
    path: str,
    *,
    extra_ids: int = EXTRA_IDS,
    pieces: Sequence[str] = (),
    start: str | None = None,
  ):
    """Stores the settings; the file is read on first use.

    Args:
      path: the path of the .model file.
      extra_ids: the number of sentinels, if the file has none (mT5's file and
        the vocabulary.model of a run have their own).
      pieces: new tokens, which get ids after those of the file. To load a
        checkpoint of the old vocabulary, set WarmStart.num_trailing_sentinels =
        extra_ids.
      start: the decoder's start token, such as LLaMA's "<s>"; None means id 0,
        as in T5.
    """
    seqio.SentencePieceVocabulary.__init__(self, path, extra_ids=extra_ids)
    self._pieces = tuple(pieces)
    self._start = start

  def recorded_settings(self) -> dict[str, str | None]:
    """Returns the arguments of the plain class, but for the model."""
    return {"start": self._start}

  def __eq__(self, other) -> bool:
    same = super().__eq__(other)
    return same and self._start == getattr(other, "_start", None)

  def _model_context(self):
    if self._model is None:
      path = self._sentencepiece_model_file
      if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
        raise ValueError(
          f"no SentencePiece model at {path!r}; `t5x_lite vocab` trains one"
        )
      prepared, num_sentinels = _prepare(path, self._pieces)
      model = seqio.SentencePieceVocabulary(
        prepared, extra_ids=0 if num_sentinels else self._extra_ids
      )
      text_lib.check_padding(model)
      self._model = model._model_context()
    return self._model

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    if count := self.extra_ids:
      at_start = self.needs_space_at_start
      pattern = text_lib.before_sentinels(count, at_start=at_start)
      for _ in range(2):
        s = tf.strings.regex_replace(s, pattern, r"\1 \2")
    return super()._encode_tf(s)

  def __hash__(self) -> int:
    path = self._sentencepiece_model_file
    return hash((path, self._extra_ids, self._pieces, self._start))

  def __repr__(self) -> str:
    path = self._sentencepiece_model_file
    pieces = f", pieces={list(self._pieces)}" if self._pieces else ""
    start = f", start={self._start!r}" if self._start else ""
    return (
      f"SentencePiece({path!r}, extra_ids={self._extra_ids}{pieces}{start})"
    )

  def __str__(self) -> str:
    return repr(self)


@functools.lru_cache
def _prepare(path: str, pieces: Sequence[str]) -> tuple[str, int]:
  """Returns the path of a prepared model, and its number of sentinels.

  The path is that of a cached copy if the model had to be changed.
  """
  with tf.io.gfile.GFile(path, "rb") as file:
    serialized = file.read()
  prepared, count = sentencepiece_models.prepare(serialized, path, pieces)
  if prepared == serialized:
    return path, count
  made = cache.directory() / f"{cache.digest([prepared])}.model"
  if not made.exists():
    with cache.write_atomic(made) as temporary:
      temporary.write_bytes(prepared)
  return str(made), count


class TextSource(Protocol):
  """Provides text to train a vocabulary; equal sources provide equal text."""

  def training_text(self, limit_bytes: int): ...


class TrainedSentencePiece(SentencePiece):
  """Trains a SentencePiece model on first use and caches it.

  Training takes about 2 s. It is deterministic: equal sources give equal
  models, and the cached file is named by a digest of the text and the settings.
  """

  recorded_kind = "sentencepiece"

  def __init__(
    self,
    sources: Sequence[TextSource],
    *,
    num_pieces: int | None = None,
    extra_ids: int = EXTRA_IDS,
  ):
    """Stores the settings; None: 3,996 pieces, or fewer for little text."""
    super().__init__("", extra_ids=extra_ids)
    self._sources = tuple(sources)
    self._num_pieces = num_pieces

  @property
  def sentencepiece_model_file(self) -> str:
    """Returns the model's path, after training it if needed."""
    if not self._sentencepiece_model_file:
      self._sentencepiece_model_file = self._train()
    return self._sentencepiece_model_file

  def _model_context(self):
    if self._model is None:
      self._sentencepiece_model_file = self.sentencepiece_model_file
    return super()._model_context()

  @property
  def extra_ids(self) -> int:
    """Returns the number of added sentinels; trained models have none."""
    return self._extra_ids

  def _train(self) -> str:
    texts = [
      text
      for source in self._sources
      for text in source.training_text(_TRAINING_BYTES)
    ]
    recipe = sentencepiece_training.describe(self._num_pieces)
    path = cache.directory() / f"{cache.digest([recipe, *texts])}.model"
    if not path.exists():
      model = self._train_on(texts)
      with cache.write_atomic(path) as temporary:
        temporary.write_bytes(model)
    return str(path)

  def _train_on(self, texts: Sequence[str]) -> bytes:
    num_pieces = self._num_pieces or TRAINED_PIECES
    logging.info("training a vocabulary of %d pieces", num_pieces)
    try:
      return sentencepiece_training.train(texts, vocab_size=num_pieces)
    except sentencepiece_training.VocabularyTooLarge as error:
      if self._num_pieces is not None:
        raise
      logging.info("the text is small: training %d pieces", error.most)
      return sentencepiece_training.train(texts, vocab_size=error.most)

  def _recipe(self):
    return (self._sources, self._num_pieces, self.extra_ids)

  def __eq__(self, other) -> bool:
    if not isinstance(other, TrainedSentencePiece):
      return False
    return self._recipe() == other._recipe()

  def __hash__(self) -> int:
    return hash(self._recipe())

  def __repr__(self) -> str:
    return (
      f"TrainedSentencePiece({list(self._sources)}, "
      f"num_pieces={self._num_pieces}, extra_ids={self.extra_ids})"
    )


def resolve(
  vocabulary: seqio.Vocabulary | str,
) -> seqio.Vocabulary:
  """Returns the vocabulary of "bytes" or of a file's path."""
  if isinstance(vocabulary, seqio.Vocabulary):
    return vocabulary
  if vocabulary == "bytes":
    return Bytes()
  if isinstance(vocabulary, str) and vocabulary.endswith(".model"):
    return SentencePiece(vocabulary)
  if isinstance(vocabulary, str) and vocabulary.endswith(".json"):
    return hf_vocabulary.HuggingFaceTokenizer(vocabulary)
  raise ValueError(
    f"vocabulary ({vocabulary!r}) must be 'bytes', the path of a SentencePiece "
    ".model file or of a tokenizer.json, or a seqio vocabulary"
  )


def encode_rest_tf(vocabulary: seqio.Vocabulary, text: tf.Tensor) -> tf.Tensor:
  """Encodes text that continues another text, possibly within a word.

  Encodes it after a sentinel, because tokenizers may put a space before a text
  but not after a sentinel.
  """
  if isinstance(vocabulary, seqio.ByteVocabulary):
    return vocabulary.encode_tf(text)
  before = "<extra_id_0>"
  tokens = vocabulary.encode_tf(tf.strings.join([before, text]))
  return tokens[len(vocabulary.encode(before)) :]


def word_starts(vocabulary: seqio.Vocabulary) -> list[bool]:
  """Returns for each id whether it begins a word.

  A word begins with the space before it: "▁the" in SentencePiece, a white-space
  byte in byte vocabularies. Each special id is a word.

  Raises:
    ValueError: the vocabulary is of another kind.
  """
  if isinstance(vocabulary, seqio.ByteVocabulary):
    return [
      not 3 <= i < 259 or bytes([i - 3]).isspace()
      for i in range(vocabulary.vocab_size)
    ]
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    pieces, (first, end) = vocabulary.tokenizer, ordinary_ids(vocabulary)
    return [
      not first <= i < end or pieces.IdToPiece(i)[0] in "▁\n"
      for i in range(vocabulary.vocab_size)
    ]
  raise ValueError(
    f"cannot tell where words begin in vocabulary {vocabulary}: use bytes or a "
    "SentencePiece model, or set whole_words to False"
  )


def identity(vocabulary: seqio.Vocabulary) -> str:
  """Describes a vocabulary with the same text in all processes."""
  if type(vocabulary).__repr__ is not object.__repr__:
    return repr(vocabulary)
  return f"{type(vocabulary).__name__}({vocabulary.vocab_size})"


def num_sentinels(vocabulary: seqio.Vocabulary) -> int:
  """Returns the number of sentinels: extra ids, or those of the file (mT5)."""
  return len(text_lib.sentinel_ids(vocabulary))


def check_sentinels(
  vocabulary: seqio.Vocabulary, needed: int, *, what: str
) -> None:
  """Raises ValueError if the vocabulary has fewer than `needed` sentinels."""
  present = num_sentinels(vocabulary)
  if needed > present:
    raise ValueError(
      f"{what} needs {needed} sentinels, more than the vocabulary's {present}: "
      f"set the vocabulary's extra_ids to {needed} (not possible if its file "
      "has sentinels) or change the objective"
    )


def ordinary_ids(vocabulary: seqio.Vocabulary) -> tuple[int, int]:
  """Returns the longest range of ids without special ids or sentinels.

  The range is half-open. In T5's vocabularies pad, EOS and unk come first; in
  others they may not.
  """
  special = {vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id} - {None}
  special |= {*text_lib.sentinel_ids(vocabulary), vocabulary.vocab_size}
  special |= {*getattr(vocabulary, "special_ids", ())}
  start, end = max(
    itertools.pairwise(sorted(special)), key=lambda pair: pair[1] - pair[0]
  )
  return start + 1, end


def noise_tokens(
  tokens: tf.Tensor,
  vocabulary: seqio.Vocabulary,
  *,
  mask_fraction: float,
  random_fraction: float,
  seeds: tf.Tensor,
) -> tf.Tensor:
  """Maps each token to the mask, a random token or itself, as in BERT.

  Args:
    tokens: int32 [n].
    vocabulary: the vocabulary; its own mask, or <extra_id_0>, is the mask.
    mask_fraction: the probability of the mask.
    random_fraction: the probability of a random token, drawn from
      `ordinary_ids`.
    seeds: int32 [2, 2].

  Returns:
    int32 [n].
  """
  first_id, end_id = ordinary_ids(vocabulary)
  draw = tf.random.stateless_uniform(tf.shape(tokens), seeds[0])
  random_ids = tf.random.stateless_uniform(
    tf.shape(tokens), seeds[1], minval=first_id, maxval=end_id, dtype=tf.int32
  )
  noised = tf.where(draw < mask_fraction + random_fraction, random_ids, tokens)
  _, mask = text_lib.mask(vocabulary)
  return tf.where(draw < mask_fraction, mask, noised)
