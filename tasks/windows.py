"""Encodes documents and cuts them into windows, for all objectives.

  documents                  "a b c"    "d e"    "f g h i"
  encode, with append_eos    [a b c $]  [d e $]  [f g h i $]
  cut to 4                   [a b c $]  [d e $ f]  [g h i $]

These are seqio preprocessors: functions of a dataset, to which seqio passes
`output_features` and `sequence_length` if they are parameters. They use
TensorFlow ops only, no Python generators, so that iterators can be checkpointed
and resume exactly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar

import seqio
import tensorflow as tf

from t5x_lite import checks
from t5x_lite.data import sentinels as text_lib

AUTOTUNE = tf.data.AUTOTUNE
Features = Mapping[str, seqio.Feature]
Lengths = Mapping[str, int] | None
MeanSpan = Annotated[float, checks.Range(1, 2**31 - 1)]


def encode(
  dataset: tf.data.Dataset,
  output_features: Features,
  *,
  append_eos: bool = False,
) -> tf.data.Dataset:
  """Maps {"text": string} to {"targets": int32 [n]}."""
  check_text(dataset)
  vocabulary = output_features["targets"].vocabulary
  end = document_end(vocabulary, append_eos)

  def encode_document(example):
    tokens = vocabulary.encode_tf(example["text"])
    tokens = tf.concat([tokens, end], axis=0)
    return {"targets": tokens}

  # seqio's `tokenize` runs 256 of these in parallel, whose results would all be
  # in an iterator checkpoint.
  return dataset.map(encode_document, num_parallel_calls=AUTOTUNE)


def document_end(vocabulary: seqio.Vocabulary, append_eos: bool) -> tf.Tensor:
  """Returns the tokens appended to a document: EOS, int32 [1], or none, [0].

  Raises:
    ValueError: the vocabulary has no EOS to append.
  """
  if not append_eos:
    return tf.zeros([0], tf.int32)
  eos = text_lib.require_eos(vocabulary, "an objective that ends documents")
  return tf.constant([eos], tf.int32)


def encoded(
  function: Callable[..., tf.data.Dataset] = encode,
  *,
  append_eos: bool = False,
) -> Sequence[Callable[..., tf.data.Dataset]]:
  """Returns the tokenization steps, whose results `t5x_lite cache` can store.

  Later steps (windows, noise) run anew in each epoch.
  """
  step = functools.partial(function, append_eos=append_eos)
  return step, seqio.CacheDatasetPlaceholder()


def cut(
  dataset: tf.data.Dataset, length: int, *, min_length: int = 1
) -> tf.data.Dataset:
  """Concatenates the sequences and cuts the stream into windows of `length`.

  No token is lost or repeated at a cut. The last window of a finite dataset may
  be shorter; it is dropped if it has fewer than `min_length` tokens. All
  features of an example have the length of "targets" and are cut at the same
  places.
  """

  def step(rest, item):
    example, is_end = item
    stream = {
      name: tf.concat([rest[name], example[name]], axis=0) for name in example
    }
    size = tf.size(stream["targets"])
    # The end has no tokens, so here the stream is shorter than a window.
    is_window = tf.logical_and(is_end, size >= min_length)
    width = tf.where(is_window, tf.maximum(size, 1), length)
    used = size // width * width
    rows = {
      name: tf.reshape(tokens[:used], [-1, width])
      for name, tokens in stream.items()
    }
    return {name: tokens[used:] for name, tokens in stream.items()}, rows

  sequences = dataset.map(lambda example: (example, False))
  empty = {name: tf.zeros([0], tf.int32) for name in dataset.element_spec}
  end = tf.data.Dataset.from_tensors((empty, True))
  return sequences.concatenate(end).scan(empty, step).unbatch()


def divide(dataset: tf.data.Dataset, length: int) -> tf.data.Dataset:
  """Divides each sequence separately into pieces of up to `length` tokens."""

  def pieces(example):
    tokens = example["targets"]
    starts = tf.range(0, tf.size(tokens), length)
    return tf.RaggedTensor.from_row_starts(tokens, starts)

  divided = dataset.map(pieces, num_parallel_calls=AUTOTUNE).unbatch()
  return divided.map(lambda tokens: {"targets": tokens})


def unbatch(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Unbatches ragged examples into vectors."""
  return dataset.unbatch().map(lambda example: example)


@seqio.map_over_dataset(num_seeds=1)
def _transform(example, seed, function, vocabulary):
  others = {name: example[name] for name in example if name != "targets"}
  return function(example["targets"], seed, vocabulary, **others)


def transform(
  dataset: tf.data.Dataset, output_features: Features, *, function: Callable
) -> tf.data.Dataset:
  """Maps each window to an example, with a random seed.

  Args:
    dataset: windows, in "targets".
    output_features: the task's features.
    function: (tokens, seed int32 [2], vocabulary) -> example; other features of
      a window are passed as keyword arguments.
  """
  return _transform(
    dataset,
    function=function,
    vocabulary=output_features["targets"].vocabulary,
  )


class Objective:
  """Makes an example from each window of the concatenated documents.

  This is the base class of objectives: frozen dataclasses that define
  `window_tokens` and `corrupt`, and override these where needed:

    name: the objective's name in error messages.
    texts: {feature of tokens: whether it ends with EOS}.
    numbers: {other feature: number of its values}.
    sized: the features whose lengths must be given; None means `texts`.
    encode: the preprocessor from documents to tokens.
    end_documents: whether documents end with EOS.
    min_window: a shorter last window of a finite dataset is dropped.
    takes_targets_length: whether `corrupt` has this parameter,
      `targets_length`.
    metric_fns, postprocess_fn: see Objective in tasks/task.py.
    metric_objs: metrics that read ids (tasks/filled.py).
  """

  name = ""
  texts: ClassVar[Mapping[str, bool]] = {"inputs": True, "targets": True}
  numbers: ClassVar[Mapping[str, int]] = {}
  sized: ClassVar[Sequence[str] | None] = None
  encode = staticmethod(encode)
  end_documents = False
  min_window = 2
  takes_targets_length = False
  metric_fns = ()  # Where there are no inputs, nothing is generated.
  metric_objs = ()
  postprocess_fn = None

  def window_tokens(
    self, lengths: Sequence[int], vocabulary: seqio.Vocabulary
  ) -> int:
    """Returns the number of tokens of a window for given feature lengths.

    Raises:
      ValueError: the lengths or the number of sentinels are too small.
    """
    raise NotImplementedError

  def corrupt(
    self, tokens: tf.Tensor, seed: tf.Tensor, vocabulary: seqio.Vocabulary
  ) -> dict[str, tf.Tensor]:
    """Makes an example from a window; set `corrupt` to None to keep windows."""
    raise NotImplementedError

  def output_features(self, vocabulary: seqio.Vocabulary) -> Features:
    """Returns the features of an example."""
    features = {
      name: seqio.Feature(vocabulary, add_eos=add_eos)
      for name, add_eos in self.texts.items()
    }
    for name, size in self.numbers.items():
      values = seqio.PassThroughVocabulary(size=size)
      features[name] = seqio.Feature(values, add_eos=False)
    return features

  def preprocessors(self) -> Sequence[Callable[..., tf.data.Dataset]]:
    """Returns the steps from documents to examples."""
    return (
      *encoded(self.encode, append_eos=self.end_documents),
      self.examples,
    )

  def examples(
    self,
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: Features,
  ) -> tf.data.Dataset:
    """Maps encoded documents to examples."""
    sized = self.sized or tuple(self.texts)
    lengths = check_lengths(sequence_length, *sized, objective=self.name)
    vocabulary = output_features["targets"].vocabulary
    dataset = self.to_windows(dataset, lengths, vocabulary)
    corrupt = self.corrupt
    if corrupt is None:
      return dataset
    if self.takes_targets_length:
      corrupt = functools.partial(corrupt, targets_length=lengths[-1])
    return transform(dataset, output_features, function=corrupt)

  def to_windows(
    self,
    dataset: tf.data.Dataset,
    lengths: Sequence[int],
    vocabulary: seqio.Vocabulary,
  ) -> tf.data.Dataset:
    """Cuts encoded documents into windows."""
    window = self.window_tokens(lengths, vocabulary)
    return cut(dataset, window, min_length=self.min_window)


def end(
  vocabulary: seqio.Vocabulary, **example: tf.Tensor
) -> dict[str, tf.Tensor]:
  """Appends EOS to each feature."""
  eos = text_lib.require_eos(vocabulary, "an objective that ends its examples")
  eos = tf.constant([eos], tf.int32)
  return {
    name: tf.concat([tokens, eos], axis=0) for name, tokens in example.items()
  }


def check_text(dataset: tf.data.Dataset) -> None:
  """Raises ValueError unless documents have the field "text"."""
  if "text" not in dataset.element_spec:
    raise ValueError(
      "documents need a field 'text', but examples have "
      f"{', '.join(map(repr, sorted(dataset.element_spec)))}: set text to the "
      "name of the text's field"
    )


def check_fractions(mask_fraction: float, random_fraction: float) -> None:
  """Raises ValueError unless both sum to at most 1."""
  fractions = mask_fraction, random_fraction
  if sum(fractions) > 1:
    raise ValueError(
      f"mask_fraction ({mask_fraction}) and random_fraction "
      f"({random_fraction}) must sum to at most 1"
    )


def longest(most: int, fits: Callable[[int], bool], otherwise: str) -> int:
  """Returns the longest window of 2 to `most` tokens that fits.

  Raises:
    ValueError: none fits; says `otherwise`.
  """
  window = next(filter(fits, range(most, 1, -1)), None)
  if window is None:
    raise ValueError(otherwise)
  return window


def shorter(lengths: Sequence[int], objective: str) -> int:
  """Returns the smaller of the lengths of inputs and targets.

  Raises:
    ValueError: it has no room for two tokens and EOS.
  """
  length = min(lengths)
  if length < 3:
    raise ValueError(
      f"{objective} of {length} inputs and targets leaves nothing to corrupt: "
      "set 3 or more"
    )
  return length


def check_lengths(
  sequence_length: Lengths, *features: str, objective: str
) -> tuple[int, ...]:
  """Returns the lengths of `features`.

  Raises:
    ValueError: a length is missing.
  """
  missing = [key for key in features if not (sequence_length or {}).get(key)]
  if missing:
    raise ValueError(
      f"{objective} needs lengths for {' and '.join(features)}; none is given "
      f"for {' and '.join(missing)} (given: {dict(sequence_length or {})})"
    )
  return tuple(sequence_length[key] for key in features)
