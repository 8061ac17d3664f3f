"""Vocabularies: SentencePiece models, one trained on first use; all by name.

All are seqio vocabularies, and none reads or trains anything before it is
used. Sentinels are the last ids, descending, <extra_id_0> the very last, unless
a file has its own: `t5x_lite.data.sentinels.sentinel_ids` tells. In a text
<extra_id_0> is one token, in Python's encode as in TensorFlow's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import seqio
import tensorflow as tf
from absl import logging

from t5x_lite.data import sentinels as text_lib
from t5x_lite.files import text_files
from tasks import (
  cache,
  hf_vocabulary,
  sentencepiece_models,
  sentencepiece_training,
)
from tasks.byte_vocabulary import Bytes

EXTRA_IDS = 100
# With EXTRA_IDS these pieces make 4,096 ids.
TRAINED_PIECES = 3996
_TRAINING_BYTES = 2_000_000


class SentencePiece(seqio.SentencePieceVocabulary):
  """A SentencePiece model, in which a sentinel may stand anywhere.

  seqio's sentinels begin with the mark of a space, so "un<extra_id_0>able" has
  none; here it is read as training shows it: "un", sentinel, "able". That mark,
  U+2581, is a space where a text has it: SentencePiece does not tell the two
  apart, so it comes back as one.
  """

  def __init__(
    self,
    path: str,
    *,
    extra_ids: int = EXTRA_IDS,
    pieces: Sequence[str] = (),
    start: str | None = None,
  ):
    """Names the file; reads it on the first use.

    Args:
      path: of the .model file.
      extra_ids: the number of sentinels, where the file has none: those of mT5
        or of a run's own vocabulary.model stay as they are.
      pieces: new tokens, which get ids after those of the file. A checkpoint
        follows by WarmStart.num_trailing_sentinels = extra_ids.
      start: the piece that decoders start from, LLaMA's "<s>" say; None is id
        0, as T5 has it.
    """
    super().__init__(path, extra_ids=extra_ids)
    self._pieces = tuple(pieces)
    self._start = start

  @property
  def sentinel_ids(self) -> tuple[int, ...]:
    """Returns the ids of <extra_id_0>, <extra_id_1>, ..."""
    return sentencepiece_models.facts(self.sp_model).sentinel_ids

  @property
  def extra_ids(self) -> int:
    """Returns the number of sentinels, the file's own or those added."""
    return len(self.sentinel_ids)

  @property
  def eos_id(self) -> int | None:
    """Returns the token that ends a text; None for a model without one."""
    found = super().eos_id
    return None if found < 0 else found

  @property
  def start_id(self) -> int:
    """Returns the token before the first one that a decoder predicts."""
    if self._start is None:
      return 0
    found = self.tokenizer.PieceToId(self._start)
    if self.tokenizer.IdToPiece(found) != self._start:
      raise ValueError(
        f"{self._sentencepiece_model_file} has no piece {self._start!r} to "
        "start from (start=...)"
      )
    return found

  def __eq__(self, other) -> bool:
    same = super().__eq__(other)
    return same and self._start == getattr(other, "_start", None)

  def _model_context(self):
    if self._model is None:
      path = self._sentencepiece_model_file
      if not tf.io.gfile.exists(path):
        raise ValueError(
          f"no SentencePiece model at {path!r}; `t5x_lite vocab` trains one"
        )
      found = sentencepiece_models.prepare(path, self._pieces)
      whole = seqio.SentencePieceVocabulary(
        found.path, extra_ids=0 if found.num_sentinels else self._extra_ids
      )
      text_lib.check_padding(whole)
      self._model = whole._model_context()
    return self._model

  @property
  def _at_start(self) -> bool:
    """Tells whether the model puts no space before a text of itself."""
    return not sentencepiece_models.facts(self.sp_model).adds_prefix

  def _encode(self, s: str) -> Sequence[int]:
    text_files.check_text(s, "the text")
    s = text_lib.spaced(s, self.extra_ids, at_start=self._at_start)
    return super()._encode(s)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    if count := self.extra_ids:
      pattern = text_lib.before_sentinels(count, at_start=self._at_start)
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


class TextSource(Protocol):
  """Gives text to train on; equal sources give equal text."""

  def training_text(self, limit_bytes: int): ...


class TrainedSentencePiece(SentencePiece):
  """A SentencePiece model that is trained on the first use, then cached.

  Training takes some 2 s. Equal sources give equal models: the text taken and
  the trainer are deterministic, and the cache's file is named by their digest.
  """

  def __init__(
    self,
    sources: Sequence[TextSource],
    *,
    num_pieces: int | None = None,
    extra_ids: int = EXTRA_IDS,
  ):
    """Names the text; num_pieces=None is 3,996, or less if it is small."""
    super().__init__("", extra_ids=extra_ids)
    self._sources = tuple(sources)
    self._num_pieces = num_pieces

  @property
  def sentencepiece_model_file(self) -> str:
    """Returns the model's path, after training it if need be."""
    if not self._sentencepiece_model_file:
      self._sentencepiece_model_file = self._train()
    return self._sentencepiece_model_file

  def _model_context(self):
    if self._model is None:
      self._sentencepiece_model_file = self.sentencepiece_model_file
    return super()._model_context()

  @property
  def extra_ids(self) -> int:
    """Returns the number of sentinels; what is trained here has none itself."""
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
  """Returns the vocabulary that is meant by "bytes" or the path of a file."""
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
  """Encodes text that goes on where another ends, within a word perhaps.

  Tokenizers put a space before any text, but not after a sentinel.
  """
  if isinstance(vocabulary, seqio.ByteVocabulary):
    return vocabulary.encode_tf(text)
  before = "<extra_id_0>"
  tokens = vocabulary.encode_tf(tf.strings.join([before, text]))
  return tokens[len(vocabulary.encode(before)) :]


def word_starts(vocabulary: seqio.Vocabulary) -> list[bool]:
  """Tells of each id whether a token of it begins a word.

  A word begins with the space before it: "▁the" in SentencePiece, white space
  among bytes. Special ids are words of their own.

  Raises:
    ValueError: the vocabulary does not tell.
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
    f"vocabulary {vocabulary} does not tell where words begin: use bytes, a "
    "SentencePiece model, or no whole words"
  )


def identity(vocabulary: seqio.Vocabulary) -> str:
  """Describes a vocabulary alike in every process: no address of an object."""
  if type(vocabulary).__repr__ is not object.__repr__:
    return repr(vocabulary)
  return f"{type(vocabulary).__name__}({vocabulary.vocab_size})"


def num_sentinels(vocabulary: seqio.Vocabulary) -> int:
  """Counts the sentinels: extra ids, or those that a file has itself (mT5)."""
  return len(text_lib.sentinel_ids(vocabulary))


def check_sentinels(
  vocabulary: seqio.Vocabulary, needed: int, *, what: str
) -> None:
  """Raises ValueError if the vocabulary has fewer than `needed` sentinels."""
  present = num_sentinels(vocabulary)
  if needed > present:
    raise ValueError(
      f"{what} needs {needed} sentinels, more than the vocabulary's {present}: "
      f"give the vocabulary extra_ids={needed} (a file with its own has no "
      "others) or change the objective"
    )


def ordinary_ids(vocabulary: seqio.Vocabulary) -> tuple[int, int]:
  """Returns the longest range of ids that are text: no special, no sentinel.

  Half-open. Pad, EOS and unk come first in T5's vocabularies, elsewhere not.
  """
  special = {vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id} - {None}
  special |= {*text_lib.sentinel_ids(vocabulary), vocabulary.vocab_size}
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
  """Makes of each token the mask, a random token or itself, as BERT does.

  Args:
    tokens: int32 [n].
    vocabulary: whose <extra_id_0> is the mask.
    mask_fraction: the probability of the mask.
    random_fraction: the probability of a random token, which is text.
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
  mask = text_lib.sentinel_ids(vocabulary)[0]
  return tf.where(draw < mask_fraction, mask, noised)
