"""Encodes inputs and targets: as two texts, or as one that is cut in two.

  Apart    inputs "add: 1 + 2"   targets "3"
           [encode("add: 1 + 2") EOS]  [encode("3") EOS]

  Joined   inputs "Answer: "     targets "A"      delimiter " "
           inputs         encode("Answer:")
           targets        what follows these in encode("Answer:  A")

Joined as lm-evaluation-harness 0.4.13 does it (`TemplateLM._encode_pair`): the
white space before the cut goes over to the targets, which have the tokens that
the one text has. Where a token of it reaches across the cut ("wor|ds"), these
lack some characters, since a decoder-only model goes on from the inputs' own
tokens; an encoder-decoder reads two texts and loses nothing: its targets
(`targets_alone`; t5x_lite/data/feature_converters.py chooses) are then encoded
by themselves. (The harness always does so. To a SentencePiece model that puts a
space before any text, this would be one space more than in the text.)

The rule is the inputs' EOS: with it they are a text of their own, which nothing
joins to the targets, and without it the targets continue them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from tasks import windows

# What `str.rstrip` takes away.
_TRAILING_SPACE = r"[\s\v\p{Z}\x{1c}-\x{1f}\x{85}]+\z"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Apart:
  """Encodes two texts, each with EOS; too long ones are cut before it."""

  def output_features(
    self, vocabulary: seqio.Vocabulary
  ) -> Mapping[str, seqio.Feature]:
    """Returns the features of an example."""
    return windows.pair(vocabulary)

  def preprocessors(self) -> Sequence[Callable[..., tf.data.Dataset]]:
    """Returns the steps; texts stay under "inputs_pretokenized" and so on."""
    return (
      functools.partial(
        seqio.preprocessors.tokenize, copy_pretokenized=True, with_eos=False
      ),
      seqio.CacheDatasetPlaceholder(),
      seqio.preprocessors.append_eos_after_trim,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined:
  """Encodes targets as what continues the inputs.

  Inputs that are too long lose their beginning.

  Attributes:
    delimiter: what stands between inputs and targets.
    end: whether EOS follows the targets, to learn from and to stop generation
      at. Targets to score have none, as in the harness, and are not cut: too
      long ones are refused.
  """

  delimiter: str = " "
  end: bool = True

  def output_features(
    self, vocabulary: seqio.Vocabulary
  ) -> Mapping[str, seqio.Feature]:
    """Returns the features of an example."""
    return {
      "inputs": seqio.Feature(vocabulary, add_eos=False),
      "targets": seqio.Feature(vocabulary, add_eos=self.end),
    }

  def preprocessors(self) -> Sequence[Callable[..., tf.data.Dataset]]:
    """Returns the steps; texts stay under "inputs_pretokenized" and so on."""
    return (self.encode, seqio.CacheDatasetPlaceholder(), self.fit)

  def encode(
    self, dataset: tf.data.Dataset, output_features: windows.Features
  ) -> tf.data.Dataset:
    """Encodes both texts as one and cuts it where they meet."""
    vocabulary = output_features["targets"].vocabulary

    def encode_example(example):
      given, targets = example["inputs"], example["targets"]
      context = tf.strings.regex_replace(given, _TRAILING_SPACE, "")
      moved = tf.strings.substr(given, tf.strings.length(context), -1)
      continuation = tf.strings.join([moved, self.delimiter, targets])
      inputs = vocabulary.encode_tf(context)
      whole = vocabulary.encode_tf(tf.strings.join([context, continuation]))
      begun, rest = whole[: tf.size(inputs)], whole[tf.size(inputs) :]
      is_cut = tf.logical_and(
        tf.size(begun) == tf.size(inputs),
        tf.reduce_all(begun == inputs[: tf.size(begun)]),
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
    """Cuts to the lengths and appends EOS."""
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
          _check_whole(tokens, length)
      return fitted

    return dataset.map(fit_example, num_parallel_calls=windows.AUTOTUNE)


# Asks for lengths to trim to, not to plan by: longer is no mistake.
Joined.fit.only_trims = True


def _check_whole(tokens: tf.Tensor, length: int | None) -> None:
  size = tf.size(tokens)
  tf.debugging.Assert(size > 0, ["targets to score have no token"])
  if length:
    says = "tokens and are scored whole, but their length is"
    tf.debugging.Assert(size <= length, ["targets have", size, says, length])
