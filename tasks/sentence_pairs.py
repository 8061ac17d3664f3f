"""Implements BERT's sentence pairs: MLM and NSP (Devlin et al. 2019).

  documents      [a b . c d e .] and [r s . t u v .]
  targets        [C a b . $ c d e . $]   or, as often,  [C a b . $ t u v . $]
  inputs         the targets with masks, and weights, as in mlm.py
  token_types    [0 0 0 0 0 1 1 1 1 1]
  next_sentence  [0]                                    [1]

Masked language modelling (MLM) and next sentence prediction (NSP): the second
part follows the first in the text (class 0) or comes from the previous document
(class 1). C is <extra_id_1>, BERT's [CLS]; $ is EOS, BERT's [SEP].
arXiv:1810.04805, section 3.1 and appendix A.2.
"""

from __future__ import annotations

import dataclasses

import seqio
import tensorflow as tf

from t5x_lite import checks
from t5x_lite.data import sentinels as text_lib
from tasks import filled, mlm, sentences

# C and twice EOS.
_MARKS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePairs(mlm.Aligned):
  """Makes masked pairs from each document.

  A document is divided into pieces of the length of a pair. Each is split at
  the beginning of a random sentence, or in the middle if it has only one
  sentence.

  Attributes:
    masking: chooses and masks tokens.
    random_rate: the fraction of pairs with a second part from another document.
  """

  name = "sentence_pairs"
  numbers = {"weights": 2, "token_types": 2, "next_sentence": 2}
  encode = staticmethod(sentences.encode)
  end_documents = False
  sentinels = 2
  metric_objs = (filled.MASKS,)

  masking: mlm.MLM = mlm.MLM()
  random_rate: checks.Fraction = 0.5

  def __post_init__(self):
    checks.fields(self)

  def to_windows(
    self, dataset: tf.data.Dataset, lengths, vocabulary: seqio.Vocabulary
  ) -> tf.data.Dataset:
    length = self.window_tokens(lengths, vocabulary)
    if length < _MARKS + 2:
      raise ValueError(
        f"sentence_pairs of {length} tokens has no room for two tokens beside "
        f"{_MARKS} marks: set {_MARKS + 2} or more"
      )
    dataset = _with_document_before(dataset)
    return _divide(dataset, length=length - _MARKS).unbatch()

  def corrupt(
    self,
    tokens: tf.Tensor,
    seed: tf.Tensor,
    vocabulary: seqio.Vocabulary,
    starts: tf.Tensor,
    other: tf.Tensor,
  ) -> dict[str, tf.Tensor]:
    """Makes a pair from a piece, or from its beginning and another text."""
    seeds = tf.random.experimental.stateless_split(seed, 3)
    size = tf.size(tokens)
    first, _ = sentences.spans(starts)
    count = tf.size(first)
    drawn = tf.random.stateless_uniform(
      [], seeds[0], 1, tf.maximum(count, 2), tf.int32
    )
    # With a single sentence, index 1 is the middle of the piece.
    end = tf.concat([first, [size // 2]], axis=0)[drawn]
    is_random = tf.random.stateless_uniform([], seeds[1]) < self.random_rate
    is_random &= tf.size(other) > 0
    second = tf.cond(
      is_random, lambda: other[: size - end], lambda: tokens[end:]
    )
    begin = tf.constant([text_lib.sentinel_ids(vocabulary)[1]])
    eos = tf.constant([text_lib.require_eos(vocabulary, "sentence_pairs")])
    parts = [
      tf.concat([begin, tokens[:end], eos], 0),
      tf.concat([second, eos], 0),
    ]
    masked = self.masking.corrupt(
      tf.concat(parts, axis=0), seeds[2], vocabulary
    )
    types = tf.repeat([0, 1], [tf.size(part) for part in parts])
    return masked | {
      "token_types": types,
      "next_sentence": tf.cast([is_random], tf.int32),
    }


def _with_document_before(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Maps each document to (document, previous document)."""

  def step(before, document):
    return document, (document, before)

  empty = {name: tf.zeros([0], tf.int32) for name in dataset.element_spec}
  return dataset.scan(empty, step)


@seqio.map_over_dataset(num_seeds=1)
def _divide(documents, seed, length: int):
  """Divides a document into pieces, each with a text from the previous one."""
  document, before = documents
  size = tf.size(document["targets"])
  begins = tf.range(0, size - 1, length)  # Pieces have at least two tokens.
  pieces = tf.ragged.range(begins, tf.minimum(begins + length, size))
  first, _ = sentences.spans(before["starts"])
  drawn = tf.random.stateless_uniform(
    tf.shape(begins), seed, 0, tf.size(first), tf.int32
  )
  total = tf.size(before["targets"])
  other_begins = tf.gather(first, drawn)
  others = tf.ragged.range(
    other_begins, tf.minimum(other_begins + length, total)
  )
  return {
    "targets": tf.gather(document["targets"], pieces),
    "starts": tf.gather(document["starts"], pieces),
    "other": tf.gather(before["targets"], others),
  }
