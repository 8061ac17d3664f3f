"""Defines the vocabularies of converted models, with their BOS and EOS ids.

A model trained with another library expects that library's ids around a text:

  T5        inputs  a b </s>          decoder  <pad>  -> a b </s>
  BART      inputs  <s> a b </s>      decoder  </s>   -> <s> a b </s>
  BERT      [CLS] a b [SEP]
  LLaMA     <s> a b
  GLM-4     [gMASK] <sop> a b
  GPT-NeoX  a b                       <|endoftext|> a b without a prompt

`t5x_lite convert` reads these ids from the files in the checkpoint's folder.
"""

from __future__ import annotations

from typing import Any

from t5x_lite.data.vocabularies import byte, sentence_pieces, tokenizer_json


class Converted:
  """Adds the BOS and EOS ids of a converted model to a vocabulary."""

  def __init__(
    self,
    *arguments,
    start_id: int,
    eos_id: int,
    begin_id: int | None = None,
    bare_prompts: bool = False,
    **settings,
  ):
    """Creates the vocabulary.

    Args:
      *arguments: passed to the base class.
      start_id: the decoder's start token.
      eos_id: the token that ends a text.
      begin_id: the first token of what an encoder reads, and of an
        encoder-decoder's targets; in a decoder alone, a second start token.
      bare_prompts: whether a decoder-only model's prompt omits start_id.
      **settings: passed to the base class.
    """
    super().__init__(*arguments, **settings)
    self._settings = (start_id, eos_id, begin_id, bare_prompts)

  def recorded_settings(self) -> dict[str, Any]:
    """Returns the settings of the base class, and these ids."""
    own = ("start_id", "eos_id", "begin_id", "bare_prompts")
    ids = dict(zip(own, self._settings, strict=True))
    return {**super().recorded_settings(), **ids}

  @property
  def start_id(self) -> int:
    return self._settings[0]

  @property
  def eos_id(self) -> int:
    return self._settings[1]

  @property
  def begin_id(self) -> int | None:
    return self._settings[2]

  @property
  def bare_prompts(self) -> bool:
    return self._settings[3]

  def start_text(self, *, of_encoder: bool) -> str:
    """Returns what the row of a prompt begins with, as text.

    Args:
      of_encoder: whether an encoder reads the prompt.
    """
    ids = [self.begin_id]
    if not of_encoder:
      ids = [] if self.bare_prompts else [self.start_id, self.begin_id]
    return "".join(self._token(i) for i in ids if i is not None)

  def __eq__(self, other) -> bool:
    ids = getattr(other, "_settings", None)
    return super().__eq__(other) and self._settings == ids

  def __hash__(self) -> int:
    return hash((super().__hash__(), self._settings))

  def __repr__(self) -> str:
    names = ("start_id", "eos_id", "begin_id", "bare_prompts")
    ids = ", ".join(map("{}={}".format, names, self._settings))
    return f"{super().__repr__()} with {ids}"

  __str__ = __repr__


class SentencePiece(Converted, sentence_pieces.SentencePiece):
  """Wraps the SentencePiece model of a converted T5 or LLaMA."""

  def _token(self, i: int) -> str:
    return self.tokenizer.IdToPiece(i)


class TokenizerJson(Converted, tokenizer_json.TokenizerJson):
  """Wraps the tokenizer.json of a converted model."""

  def _token(self, i: int) -> str:
    return self.tokenizer.id_to_token(i - self.offset)


class Bytes(Converted, byte.Bytes):
  """Encodes text as bytes for a converted ByT5."""

  def _token(self, i: int) -> str:
    return self.decode([i])
