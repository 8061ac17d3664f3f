"""Marks the tokens at which sentences begin.

  text      "One. Two, three! Four"
  targets   [One . Two , three ! Four]
  starts    [ 1  0  1  0   0   0  1 ]

A sentence ends with . ! or ?, or similar marks in other scripts, and any
closing quotes or brackets, followed by white space (not required in Chinese and
Japanese); or with an empty line. The text is not split before encoding, so its
tokens are the same as in other objectives. A token that spans the end of a
sentence belongs to the next one.
"""

from __future__ import annotations

import tensorflow as tf

from tasks import offsets, windows

_END = (
  r"([.!?…؟۔।॥][\"')\]”’»]*\s+"
  r"|[。！？]+[\"')\]”’」』）》]*\s*"
  r"|\n\s*\n)"
)
# NUL in the text is escaped as \x00\x01, so that it cannot be mistaken for a
# mark.
_NUL, _ESCAPED, _MARK = "\x00", "\x00\x01", "\x00\x02"


def encode(
  dataset: tf.data.Dataset,
  output_features: windows.Features,
  *,
  append_eos: bool = False,
) -> tf.data.Dataset:
  """Maps {"text": string} to {"targets", "starts"}, both int32 [n].

  "targets" is that of `windows.encode`; "starts" is 1 where a sentence begins.
  """
  windows.check_text(dataset)
  vocabulary = output_features["targets"].vocabulary
  end = windows.document_end(vocabulary, append_eos)

  def encode_document(example):
    text = example["text"]
    targets, first = offsets.encode(vocabulary, text, begins(text))
    # Index n means that the tokenizer removed the rest of the text.
    first = tf.boolean_mask(first, first < tf.size(targets))
    starts = tf.scatter_nd(
      first[:, tf.newaxis], tf.ones_like(first), [tf.size(targets)]
    )
    starts = tf.minimum(starts, 1)
    targets = tf.concat([targets, end], axis=0)
    starts = tf.concat([starts, tf.zeros_like(end)], axis=0)
    return {"targets": targets, "starts": starts}

  return dataset.map(encode_document, num_parallel_calls=windows.AUTOTUNE)


def begins(text: tf.Tensor) -> tf.Tensor:
  """Returns the byte offsets at which sentences begin: int32 [m]."""
  escaped = tf.strings.regex_replace(text, _NUL, _ESCAPED)
  marked = tf.strings.regex_replace(escaped, _END, rf"\1{_MARK}")
  sentences = tf.strings.split(marked, _MARK)
  sentences = tf.strings.regex_replace(sentences, _ESCAPED, _NUL)
  return tf.cumsum(tf.strings.length(sentences), exclusive=True)


def spans(starts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the starts and lengths of a window's sentences, in tokens.

  A window's first token always begins a sentence.
  """
  is_start = tf.concat([[1], starts[1:]], axis=0)
  first = tf.cast(tf.where(is_start > 0)[:, 0], tf.int32)
  return first, tf.concat([first[1:], [tf.size(starts)]], axis=0) - first
