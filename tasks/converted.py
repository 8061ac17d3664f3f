"""Defines the vocabularies of converted models as seqio vocabularies.

See t5x_lite/data/vocabularies/converted.py.
"""

from __future__ import annotations

from t5x_lite.data.vocabularies.converted import Converted
from tasks import hf_vocabulary, vocabularies


class SentencePiece(Converted, vocabularies.SentencePiece):
  """Wraps the SentencePiece model of a converted T5 or LLaMA."""

  recorded_kind = "sentencepiece"


class HuggingFaceTokenizer(Converted, hf_vocabulary.HuggingFaceTokenizer):
  """Wraps the tokenizer.json of a converted model."""

  recorded_kind = "tokenizer_json"


class Bytes(Converted, vocabularies.Bytes):
  """Encodes text as bytes for a converted ByT5."""

  recorded_kind = "bytes"
