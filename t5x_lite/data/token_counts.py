"""Counts a batch's tokens, padding and scored tokens."""

from collections.abc import Mapping
from typing import Any


def count(batch: Mapping[str, Any]) -> dict[str, Any]:
  """Counts the tokens and examples of a batch of NumPy or JAX arrays.

  Without segment ids, a row is one example without padding.

  Returns:
    "positions": tokens with padding, of encoder and decoder; "tokens": tokens
    without padding; "encoder_tokens", "decoder_tokens": these by side;
    "loss_tokens": the tokens that are scored; "examples": the segments.
  """
  inputs = {
    side: batch[f"{side}_input_tokens"]
    for side in ("encoder", "decoder")
    if f"{side}_input_tokens" in batch
  }
  segment_ids = {
    side: batch.get(f"{side}_segment_ids", 0 * tokens + 1)
    for side, tokens in inputs.items()
  }
  real = {side: (ids > 0).sum() for side, ids in segment_ids.items()}
  side = "decoder" if "decoder" in inputs else "encoder"
  weights = batch[f"{side}_loss_weights"]
  return {
    "positions": sum(ids.size for ids in segment_ids.values()),
    "tokens": sum(real.values()),
    "encoder_tokens": real.get("encoder", 0),
    "decoder_tokens": real.get("decoder", 0),
    "loss_tokens": (weights > 0).sum(),
    # A row's segments are numbered from 1, identically on both sides.
    "examples": segment_ids[side].max(axis=-1).sum(),
  }


def fractions(counts: Mapping[str, float]) -> dict[str, float]:
  """Returns the shares of padding and of scored tokens.

  Args:
    counts: of one batch or of several, as `count` returns them.

  Returns:
    "padding_fraction" of the positions; "loss_fraction" of the tokens.
  """
  return {
    "padding_fraction": 1 - counts["tokens"] / counts["positions"],
    "loss_fraction": counts["loss_tokens"] / max(counts["tokens"], 1),
  }
