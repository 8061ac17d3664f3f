"""Masked language modelling of sentence pairs: BERT's (Devlin et al. 2019).

  documents      [a b . c d e .] and [r s . t u v .]
  targets        [C a b . $ c d e . $]   or, as often,  [C a b . $ t u v . $]
  inputs         these with masks, as in mlm.py; weights too
  token_types    [0 0 0 0 0 1 1 1 1 1]
  next_sentence  [0]                                    [1]

The second part follows the first, class 0, or comes from the document before,
class 1. C is <extra_id_1>, in BERT [CLS]; $ is EOS, in BERT [SEP].
arXiv:1810.04805, section 3.1 and appendix A.2.
"""

from __future__ import annotations

import dataclasses

import seqio
import tensorflow as tf

from t5x_lite.data import sentinels as text_lib
from tasks import mlm, sentences

# C and two times EOS.
_MARKS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePairs(mlm.Aligned):
  """Makes pairs of each document, and masks them.

  A document is divided into pieces that fill a pair, each cut in two where a
  sentence begins, or in the middle of a single one.

  Attributes:
    masking: how tokens are chosen and masked.
    random_rate: the share of pairs whose second part is of another document.
  """

  name = "sentence_pairs"
  numbers = {"weights": 2, "token_types": 2, "next_sentence": 2}
  encode = staticmethod(sentences.encode)
  end_documents = False
  sentinels = 2

  masking: mlm.MLM = mlm.MLM()
  random_rate: float = 0.5

  def __post_init__(self):
    if not 0 <= self.random_rate <= 1:
      raise ValueError(f"random_rate ({self.random_rate}) must be from 0 to 1")

  def to_windows(
    self, dataset: tf.data.Dataset, lengths, vocabulary: seqio.Vocabulary
  ) -> tf.data.Dataset:
    length = self.window_tokens(lengths, vocabulary)
    if length < _MARKS + 2:
      raise ValueError(
        f"sentence_pairs of {length} tokens leaves no two beside {_MARKS} "
        f"marks: set {_MARKS + 2} or more"
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
    """Makes a pair of a piece, or of its beginning and another text's."""
    seeds = tf.random.experimental.stateless_split(seed, 3)
    size = tf.size(tokens)
    first, _ = sentences.spans(starts)
    count = tf.size(first)
    drawn = tf.random.stateless_uniform(
      [], seeds[0], 1, tf.maximum(count, 2), tf.int32
    )
    # Of one sentence there is no second; the index is then one of the middle.
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
  """Gives each document the one before it, that pairs may be made of both."""

  def step(before, document):
    return document, (document, before)

  empty = {name: tf.zeros([0], tf.int32) for name in dataset.element_spec}
  return dataset.scan(empty, step)


@seqio.map_over_dataset(num_seeds=1)
def _divide(documents, seed, length: int):
  """Divides a document into pieces; draws for each a text of the one before."""
  document, before = documents
  size = tf.size(document["targets"])
  begins = tf.range(0, size - 1, length)  # At least two tokens.
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
