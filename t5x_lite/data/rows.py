"""Lays out texts in rows, in NumPy: one example a row, for infer and score.

The rows are those of feature_converters.py without packing, for examples that
are in memory. Streams of examples, which training reads, are TensorFlow's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from t5x_lite import row_formats
from t5x_lite.row_formats import RowFormat

Arrays = dict[str, np.ndarray]
Example = Mapping[str, np.ndarray]


def starts(vocabulary: Any) -> dict[str, Any]:
  """Returns the arguments of `lay_out` and `converter` for the start of rows.

  They are the vocabulary's `start_id`, `begin_id` and `bare_prompts`, with
  defaults for those that it lacks.
  """
  begin_id = getattr(vocabulary, "begin_id", None)
  return {
    "start_id": getattr(vocabulary, "start_id", 0),
    "around": None if begin_id is None else (begin_id, vocabulary.eos_id),
    "bare_prompts": getattr(vocabulary, "bare_prompts", False),
  }


def lay_out(
  row_format: RowFormat,
  examples: Sequence[Example],
  lengths: Mapping[str, int],
  *,
  start_id: int = 0,
  around: tuple[int, int] | None = None,
  bare_prompts: bool = False,
) -> Arrays:
  """Returns a batch with one example per row, int32 [examples, length].

  Args:
    row_format: the architecture's.
    examples: int32 vectors "inputs" and "targets"; an encoder's have "weights"
      too. Empty targets are a prompt, with the "positions" of its blanks if it
      is GLM's.
    lengths: of the features, as for `feature_converters.converter`.
    start_id, around, bare_prompts: as there.

  Raises:
    ValueError: an example has more tokens than a row.
  """
  row_lengths = row_format.row_lengths(lengths)
  if around:
    ends = {"encoder": 2, "decoder": 1}
    row_lengths = {side: n + ends[side] for side, n in row_lengths.items()}
  arrange = _ARRANGE[row_format]
  arranged = [
    arrange(
      example, start_id=start_id, around=around, bare_prompts=bare_prompts
    )
    for example in examples
  ]
  batch = {}
  for side, length in row_lengths.items():
    sizes_B1 = np.array([len(x[f"{side}_input_tokens"]) for x in arranged])[
      :, None
    ]
    if sizes_B1.size and sizes_B1.max() > length:
      raise ValueError(
        f"an example has {sizes_B1.max()} {side} tokens, a row has room for "
        f"{length}"
      )
    places_BT = np.arange(length, dtype=np.int32)[None]
    inside_BT = np.int32(places_BT < sizes_B1)
    batch[f"{side}_segment_ids"] = inside_BT
    batch[f"{side}_positions"] = places_BT * inside_BT
  for name in arranged[0] if arranged else ():
    length = row_lengths[name.split("_", 1)[0]]
    rows = np.zeros((len(arranged), length), np.int32)
    for row, features in zip(rows, arranged, strict=True):
      row[: len(features[name])] = features[name]
    batch[name] = rows
  return batch


def _encoder_decoder(example, *, start_id, around, bare_prompts) -> Arrays:
  del bare_prompts
  inputs, targets = example["inputs"], example["targets"]
  if around:
    begin, end = ([token] for token in around)
    ends = list(inputs[-1:]) == end
    inputs = _joined(begin, inputs, [] if ends else end)
    # A prompt has no targets to begin.
    targets = _joined(begin if len(targets) else [], targets)
  weights, targets = np.ones_like(targets), _at_least_one(targets)
  return {
    "encoder_input_tokens": _at_least_one(inputs),
    "decoder_input_tokens": _joined([start_id], targets[:-1]),
    "decoder_target_tokens": targets,
    "decoder_loss_weights": _at_least_one(weights),
  }


def _decoder(example, *, start_id, around, bare_prompts) -> Arrays:
  if "positions" in example:
    return _blanks(**example)
  inputs, targets = example["inputs"], example["targets"]
  if around:
    inputs = _joined(around[:1], inputs)
  tokens = _joined(inputs, _at_least_one(targets))
  arranged = {
    "decoder_input_tokens": _joined([start_id], tokens[:-1]),
    "decoder_target_tokens": tokens,
    "decoder_loss_weights": _joined(
      np.zeros_like(inputs), _at_least_one(np.ones_like(targets))
    ),
    "decoder_causal_attention": np.int32(np.arange(len(tokens)) <= len(inputs)),
  }
  # The first token of a bare prompt is not predicted.
  first = int(bare_prompts and len(inputs) > 0)
  return {name: values[first:] for name, values in arranged.items()}


def _blanks(inputs, targets, positions) -> Arrays:
  """Arranges a text with blanks (GLM); weights mark those to fill."""
  assert not len(targets), "only prompts"
  weights = np.zeros_like(inputs)
  weights[positions] = 1
  return {
    "decoder_input_tokens": inputs,
    "decoder_loss_weights": weights,
    "decoder_causal_attention": np.ones_like(inputs),
    "decoder_block_positions": np.zeros_like(inputs),
  }


def _encoder(example, *, start_id, around, bare_prompts) -> Arrays:
  del start_id, bare_prompts
  inputs, targets, weights = (
    example[name] for name in ("inputs", "targets", "weights")
  )
  if around:
    begin, end = ([token] for token in around)
    inputs, targets = _joined(begin, inputs, end), _joined(begin, targets, end)
    weights = _joined([0], weights, [0])
  return {
    "encoder_input_tokens": inputs,
    "encoder_target_tokens": targets,
    "encoder_loss_weights": weights,
  }


def _joined(*parts) -> np.ndarray:
  return np.concatenate([np.asarray(part, np.int32) for part in parts])


def _at_least_one(tokens) -> np.ndarray:
  """Returns the tokens, or [0] for none."""
  return tokens if len(tokens) else np.zeros(1, np.int32)


_ARRANGE: Mapping[RowFormat, Callable[..., Arrays]] = {
  row_formats.ENCODER_DECODER: _encoder_decoder,
  row_formats.CAUSAL: _decoder,
  row_formats.PREFIX: _decoder,
  row_formats.ENCODER: _encoder,
}
