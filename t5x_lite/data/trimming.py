"""Truncates long examples, by one rule for training, infer and score.

  inputs [a b c d e $]  targets [x y z $]
  lengths inputs 5, targets 3               [a b c d $]  [x y $]
  and of a decoder's row, 5                 [a $]        [x y $]
  a prompt, which has no EOS                [d e]        [x y $]

A final EOS ($) is kept, and excess tokens before it are dropped, so that inputs
end in EOS as in all other examples. If the task appends no EOS to inputs, they
are a prompt, which the targets continue: they are truncated at the beginning.
If a decoder's row has too little room for both, the inputs are truncated, down
to none. `jobs.Codec` truncates the texts of commands likewise.
"""

from collections.abc import Mapping

import seqio
import tensorflow as tf


def fit(
  example: Mapping[str, tf.Tensor],
  features: Mapping[str, seqio.Feature],
  lengths: Mapping[str, int],
) -> dict[str, tf.Tensor]:
  """Returns the features that have a length, truncated to it.

  Args:
    example: int32 vectors.
    features: the task's, which define EOS and whether it is appended.
    lengths: the lengths of features, and of a decoder's row ("decoder") if it
      has its own.
  """
  rows = dict(lengths)
  together = rows.pop("decoder", None)
  ends = {
    name: _num_ends(example[name], features[name])
    for name in ("inputs", "targets")
    if name in rows
  }
  if "weights" in rows:  # All are aligned with the targets.
    ends = {"targets": ends["targets"]}

  def cut(name, tokens, length):
    is_aligned = name not in ends
    is_prompt = name == "inputs" and not (is_aligned or features[name].add_eos)
    num_ends = ends.get(name, ends["targets"])
    return _cut(tokens, length, num_ends, keep_end=is_prompt)

  kept = {
    name: cut(name, example[name], length) for name, length in rows.items()
  }
  if together:
    room = together - tf.size(kept["targets"])
    kept["inputs"] = cut("inputs", kept["inputs"], room)
  return kept


def _num_ends(tokens: tf.Tensor, feature: seqio.Feature) -> tf.Tensor:
  """Returns 1 if the tokens end in an EOS that the task appends, else 0."""
  eos_id = feature.vocabulary.eos_id
  if not feature.add_eos or eos_id is None:
    return tf.constant(0)
  return tf.reduce_sum(tf.cast(tokens[-1:] == eos_id, tf.int32))


def _cut(tokens, length, num_ends, *, keep_end) -> tf.Tensor:
  """Truncates tokens, keeping the last `num_ends` if they fit."""
  excess = tf.maximum(tf.size(tokens) - length, 0)
  text, end = tf.split(tokens, [tf.size(tokens) - num_ends, num_ends])
  excess = tf.minimum(excess, tf.size(text))
  text = text[excess:] if keep_end else text[: tf.size(text) - excess]
  return tf.concat([text, end], axis=0)[:length]
