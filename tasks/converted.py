"""Vocabularies of models that come from elsewhere: how their texts begin, end.

A model that was trained with another library expects its own ids around a text:

  T5        inputs  a b </s>          decoder  <pad>  -> a b </s>
  BART      inputs  <s> a b </s>      decoder  </s>   -> <s> a b </s>
  LLaMA     <s> a b
  GPT-NeoX  a b                       and <|endoftext|> before a text alone

`t5x_lite convert` reads from the files beside the weights which they are.
"""

from __future__ import annotations

from tasks import hf_vocabulary, vocabularies


class _Converted:
  """Adds the ids of a converted model to a vocabulary."""

  def __init__(
    self,
    *arguments,
    start_id: int,
    eos_id: int,
    begin_id: int | None = None,
    bare_prompts: bool = False,
    **settings,
  ):
    """Builds the vocabulary.

    Args:
      *arguments: of the vocabulary.
      start_id: the token before the first one that a decoder predicts.
      eos_id: the token that ends a text.
      begin_id: the token that an encoder-decoder's texts begin with.
      bare_prompts: whether a language model's prompt stands without start_id.
      **settings: of the vocabulary.
    """
    super().__init__(*arguments, **settings)
    self._around = (start_id, eos_id, begin_id, bare_prompts)

  @property
  def start_id(self) -> int:
    return self._around[0]

  @property
  def eos_id(self) -> int:
    return self._around[1]

  @property
  def begin_id(self) -> int | None:
    return self._around[2]

  @property
  def bare_prompts(self) -> bool:
    return self._around[3]

  def __eq__(self, other) -> bool:
    around = getattr(other, "_around", None)
    return super().__eq__(other) and self._around == around

  def __hash__(self) -> int:
    return hash((super().__hash__(), self._around))

  def __repr__(self) -> str:
    names = ("start_id", "eos_id", "begin_id", "bare_prompts")
    ids = ", ".join(map("{}={}".format, names, self._around))
    return f"{super().__repr__()} with {ids}"

  __str__ = __repr__


class SentencePiece(_Converted, vocabularies.SentencePiece):
  """The SentencePiece model of a converted T5 or LLaMA."""


class HuggingFaceTokenizer(_Converted, hf_vocabulary.HuggingFaceTokenizer):
  """The tokenizer.json of a converted model."""


class Bytes(_Converted, vocabularies.Bytes):
  """ByT5's bytes, for a converted model."""
