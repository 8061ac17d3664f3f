"""Turns documents into windows of tokens: what every objective starts from.

  documents                  "a b c"    "d e"    "f g h i"
  encode, with append_eos    [a b c $]  [d e $]  [f g h i $]
  cut to 4                   [a b c $]  [d e $ f]  [g h i $]

These are seqio preprocessors: functions of a dataset, to which seqio adds
`output_features` and `sequence_length` where they ask for them. All of them
are TensorFlow ops without generators or Python calls, so that an iterator
checkpoint resumes exactly.
"""

from __future__ import annotations

from collections.abc import Mapping

import seqio
import tensorflow as tf

AUTOTUNE = tf.data.AUTOTUNE
Features = Mapping[str, seqio.Feature]
Lengths = Mapping[str, int] | None


def encode(
  dataset: tf.data.Dataset,
  output_features: Features,
  *,
  append_eos: bool = False,
) -> tf.data.Dataset:
  """Maps {"text": string} to {"targets": int32 [n]}."""
  vocabulary = output_features["targets"].vocabulary
  if "text" not in dataset.element_spec:
    raise ValueError(
      "documents need a field 'text', and examples have "
      f"{', '.join(map(repr, sorted(dataset.element_spec)))}: name the text's "
      "field (text=...)"
    )

  def encode_document(example):
    tokens = vocabulary.encode_tf(example["text"])
    if append_eos:
      tokens = tf.concat([tokens, [vocabulary.eos_id]], axis=0)
    return {"targets": tokens}

  # seqio's `tokenize` runs 256 of these at once, all of which an iterator
  # checkpoint would have to hold.
  return dataset.map(encode_document, num_parallel_calls=AUTOTUNE)


def cut(
  dataset: tf.data.Dataset, length: int, *, min_length: int = 1
) -> tf.data.Dataset:
  """Joins the sequences end to end and cuts the stream to `length` tokens.

  No token is lost or repeated at a cut. The last window of a finite dataset
  may be shorter; below `min_length` tokens it is dropped.
  """

  def step(rest, item):
    tokens, is_end = item
    stream = tf.concat([rest, tokens], axis=0)
    size = tf.size(stream)
    # The end brings no tokens, so here the stream is shorter than a window.
    is_window = tf.logical_and(is_end, size >= min_length)
    width = tf.where(is_window, tf.maximum(size, 1), length)
    used = size // width * width
    return stream[used:], {"targets": tf.reshape(stream[:used], [-1, width])}

  sequences = dataset.map(lambda example: (example["targets"], False))
  empty = tf.zeros([0], tf.int32)
  end = tf.data.Dataset.from_tensors((empty, True))
  return sequences.concatenate(end).scan(empty, step).unbatch()


def check_lengths(
  sequence_length: Lengths, *features: str, objective: str
) -> tuple[int, ...]:
  """Returns the lengths of `features`, or says which one is not given."""
  missing = [key for key in features if not (sequence_length or {}).get(key)]
  if missing:
    raise ValueError(
      f"{objective} needs lengths for {' and '.join(features)}; none is given "
      f"for {' and '.join(missing)} (given: {dict(sequence_length or {})})"
    )
  return tuple(sequence_length[key] for key in features)
