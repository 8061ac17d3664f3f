"""Writes gin bindings for the vocabulary of a converted run."""

from t5x_lite.inference.converted_vocabulary import Vocabulary

# Kind -> the class in tasks/vocabularies.py and tasks/converted.py.
_CLASSES = {
  "bytes": "Bytes",
  "sentencepiece": "SentencePiece",
  "tokenizer_json": "HuggingFaceTokenizer",
}


def write(vocabulary: Vocabulary) -> str:
  """Returns gin bindings that set a vocabulary for the text tasks."""
  name = _CLASSES[vocabulary.kind]
  module = "vocabularies" if vocabulary.is_plain else "converted"
  path = vocabulary.path
  settings = {} if path is None else {"path": str(path.absolute())}
  settings |= vocabulary.settings
  if not vocabulary.is_plain:
    settings |= vocabulary.around
  value = f"@{module}.{name}()"
  lines = [
    "from tasks import text",
    f"from tasks import {module}",
    *(f"{module}.{name}.{key} = {said!r}" for key, said in settings.items()),
    f"text.corpus_task.vocabulary = {value}",
    f"text.text_task.vocabulary = {value}",
  ]
  return "\n".join(lines) + "\n"
