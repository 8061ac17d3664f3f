"""Knows where sentences begin in windows of tokens.

  text      "One. Two, three! Four"
  targets   [One . Two , three ! Four]
  starts    [ 1  0  1  0   0   0  1 ]

A sentence ends with . ! or ?, closing quotes or brackets after it, before white
space; or with a line that is empty.
"""

from __future__ import annotations

import tensorflow as tf

from tasks import windows

# What no text has, put where it is split.
_MARK = "\x00"
_END = r"([.!?][\"')\]]*\s+|\n\s*\n)"


def encode(
  dataset: tf.data.Dataset,
  output_features: windows.Features,
  *,
  append_eos: bool = False,
) -> tf.data.Dataset:
  """Maps {"text": string} to {"targets", "starts"}, both int32 [n].

  As `windows.encode`, and 1 in "starts" where a sentence begins.
  """
  windows.check_text(dataset)
  vocabulary = output_features["targets"].vocabulary
  end = windows.document_end(vocabulary, append_eos)

  def encode_document(example):
    marked = tf.strings.regex_replace(example["text"], _END, rf"\1{_MARK}")
    sentences = tf.strings.split(marked, _MARK)
    tokens = tf.map_fn(
      vocabulary.encode_tf,
      sentences,
      fn_output_signature=tf.RaggedTensorSpec([None], tf.int32),
    )
    targets = tokens.values
    # The ends of empty sentences are nowhere, or the text's.
    first = tf.cast(tokens.row_starts(), tf.int32)
    first = tf.boolean_mask(first, tokens.row_lengths() > 0)
    starts = tf.scatter_nd(
      first[:, tf.newaxis], tf.ones_like(first), [tf.size(targets)]
    )
    targets = tf.concat([targets, end], axis=0)
    starts = tf.concat([starts, tf.zeros_like(end)], axis=0)
    return {"targets": targets, "starts": starts}

  return dataset.map(encode_document, num_parallel_calls=windows.AUTOTUNE)


def spans(starts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the first tokens of a window's sentences, and their lengths.

  A window's first token begins one, whatever it was cut from.
  """
  is_start = tf.concat([[1], starts[1:]], axis=0)
  first = tf.cast(tf.where(is_start > 0)[:, 0], tf.int32)
  return first, tf.concat([first[1:], [tf.size(starts)]], axis=0) - first
