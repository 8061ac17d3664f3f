"""Causal language modelling: predict each token from those before it.

  documents   "a b c"  "d e"
  targets     [a b c $ d]  [e $ ...]      (5 tokens each)

EOS stands at the end of documents only, windows are cut without regard to
them, and every token bears loss. There are no inputs: this is for decoders.
"""

from __future__ import annotations

import dataclasses

import seqio

from tasks import windows


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalLM(windows.Objective):
  """Fills `targets` with consecutive tokens of the joined documents."""

  name = "causal_lm"
  texts = {"targets": True}
  end_documents = True
  min_window = 1
  corrupt = None

  def window_tokens(self, lengths, vocabulary: seqio.Vocabulary) -> int:
    del vocabulary
    (length,) = lengths
    if length < 2:
      raise ValueError(
        f"causal_lm needs at least 2 targets, got {length}: with one token "
        "there is no context"
      )
    return length
