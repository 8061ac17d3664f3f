"""Encodes inputs and targets, either separately or as one text.

  Apart    inputs "add: 1 + 2"   targets "3"
           [encode("add: 1 + 2") EOS]  [encode("3") EOS]

  Joined   inputs "Answer: "     targets "A"      delimiter " "
           inputs         encode("Answer:")
           targets        the following tokens of encode("Answer:  A")

Joined follows lm-evaluation-harness 0.4.13 (`TemplateLM._encode_pair`): white
space at the end of the inputs is moved to the targets, which are the remaining
tokens of the joint text. If a token spans the cut ("wor|ds"), some characters
of the targets are lost, because a decoder-only model continues the inputs'
tokens. For encoder-decoders, the targets are then encoded separately
(`targets_alone`; t5x_lite/data/feature_converters.py chooses). (The harness
always encodes them separately. With a SentencePiece model that adds a prefix
space, that would add a second space.)

If the inputs have EOS, they are a separate text; if not, the targets continue
them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from t5x_lite import checks
from tasks import windows

# The characters that `str.rstrip` strips.
_TRAILING_SPACE = r"[\s\v\p{Z}\x{1c}-\x{1f}\x{85}]+\z"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Apart:
  """Encodes inputs and targets separately, each with EOS after truncation."""

  def output_features(
    self, vocabulary: seqio.Vocabulary
  ) -> Mapping[str, seqio.Feature]:
    """Returns the features of an example."""
    feature = seqio.Feature(vocabulary, add_eos=True)
    return {"inputs": feature, "targets": feature}

  def preprocessors(self) -> Sequence[Callable[..., tf.data.Dataset]]:
    """Returns the steps, which keep the texts as "inputs_pretokenized" etc."""
    return (
      functools.partial(
        seqio.preprocessors.tokenize, copy_pretokenized=True, with_eos=False
      ),
      seqio.CacheDatasetPlaceholder(),
      seqio.preprocessors.append_eos_after_trim,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined:
  """Encodes targets as the continuation of the inputs.

  Long inputs are truncated at their beginning.

  Attributes:
    delimiter: the text between inputs and targets.
    end: whether the targets end with EOS, for training and generation. For
      scoring they have none, as in the harness, and targets that are too long
      are an error instead of being truncated.
  """

  delimiter: str = " "
  end: bool = True

  def __post_init__(self):
    checks.fields(self)

  def output_features(
    self, vocabulary: seqio.Vocabulary
  ) -> Mapping[str, seqio.Feature]:
    """Returns the features of an example."""
    return {
      "inputs": seqio.Feature(vocabulary, add_eos=False),
      "targets": seqio.Feature(vocabulary, add_eos=self.end),
    }

  def preprocessors(self) -> Sequence[Callable[..., tf.data.Dataset]]:
    """Returns the steps, which keep the texts as "inputs_pretokenized" etc."""
    return (self.encode, seqio.CacheDatasetPlaceholder(), self.fit)

  def encode(
    self, dataset: tf.data.Dataset, output_features: windows.Features
  ) -> tf.data.Dataset:
    """Encodes both texts as one and splits the tokens."""
    vocabulary = output_features["targets"].vocabulary

    def encode_example(example):
      given, targets = example["inputs"], example["targets"]
      context = tf.strings.regex_replace(given, _TRAILING_SPACE, "")
      moved = tf.strings.substr(given, tf.strings.length(context), -1)
      continuation = tf.strings.join([moved, self.delimiter, targets])
      inputs = vocabulary.encode_tf(context)
      joint = vocabulary.encode_tf(tf.strings.join([context, continuation]))
      start, rest = joint[: tf.size(inputs)], joint[tf.size(inputs) :]
      is_cut = tf.logical_and(
        tf.size(start) == tf.size(inputs),
        tf.reduce_all(start == inputs[: tf.size(start)]),
      )
      return {
        **example,
        "inputs_pretokenized": given,
        "targets_pretokenized": targets,
        "inputs": inputs,
        "targets": rest,
        "targets_alone": tf.cond(
          is_cut, lambda: rest, lambda: vocabulary.encode_tf(continuation)
        ),
      }

    return dataset.map(encode_example, num_parallel_calls=windows.AUTOTUNE)

  def fit(
    self,
    dataset: tf.data.Dataset,
    sequence_length: windows.Lengths,
    output_features: windows.Features,
  ) -> tf.data.Dataset:
    """Truncates to the lengths and appends EOS."""
    lengths = sequence_length or {}
    end = windows.document_end(output_features["targets"].vocabulary, self.end)

    def fit_example(example):
      fitted = dict(example)
      if length := lengths.get("inputs"):
        fitted["inputs"] = example["inputs"][-length:]
      length = lengths.get("targets")
      for name in ("targets", "targets_alone"):
        tokens = example[name]
        if self.end:
          tokens = tokens[: length - 1] if length else tokens
          fitted[name] = tf.concat([tokens, end], axis=0)
        else:
          _check_fits(tokens, length)
      return fitted

    return dataset.map(fit_example, num_parallel_calls=windows.AUTOTUNE)


# Lengths only truncate here: lengths longer than needed are not an error.
Joined.fit.only_trims = True


def _check_fits(tokens: tf.Tensor, length: int | None) -> None:
  size = tf.size(tokens)
  tf.debugging.Assert(size > 0, ["targets to score have no tokens"])
  if length:
    limit = "tokens to score, more than their length"
    tf.debugging.Assert(size <= length, ["targets have", size, limit, length])
