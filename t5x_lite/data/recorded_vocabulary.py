"""Records a vocabulary in a run's directory, and builds it again from there.

    {"kind": "sentencepiece", "settings": {"start": null},
     "files": {"vocabulary.model": "<sha256>"}}

A vocabulary says what it is by two attributes of its class: `recorded_kind`, a
name in `KINDS`, and `recorded_settings()`. A user's subclass of one may encode
in another way, so a class must state its kind itself to be recorded.
"""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

from etils import epath

from t5x_lite.data.vocabularies import (
  byte,
  byte_bpe,
  converted,
  sentence_pieces,
  tokenizer_json,
)
from t5x_lite.files import disk

KINDS = ("bytes", "sentencepiece", "tokenizer_json")
MODEL = "vocabulary.model"
# Where a tokenizer.json is copied to, with the files that its ids depend on.
_FOLDER = "vocabulary"
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json")
# Where EOS is looked for, if no setting names it.
_WITH_EOS = ("generation_config.json", "config.json")


def write(vocabulary: Any, directory: epath.Path) -> dict[str, Any] | None:
  """Writes the files of a vocabulary to a run's directory.

  Returns:
    The record, for `read`; None if the vocabulary is not of a known kind, or
    the directory is not local and the vocabulary needs that.
  """
  kind = vars(type(vocabulary)).get("recorded_kind")
  if kind not in KINDS:
    return None
  files, settings = [], vocabulary.recorded_settings()
  if kind == "sentencepiece":
    with disk.partial(directory / MODEL) as temporary:
      temporary.write_bytes(vocabulary.sp_model)
    files = [MODEL]
  elif kind == "tokenizer_json":
    if "://" in str(directory):
      return None
    names_eos = settings.get("eos") or "eos_id" in settings
    beside = _BESIDE if names_eos else (*_BESIDE, *_WITH_EOS)
    files = _tokenizer(pathlib.Path(vocabulary.path), directory, beside)
  return {
    "kind": kind,
    "settings": settings,
    "files": {name: _digest(directory / name) for name in files},
  }


def read(record: Mapping[str, Any], directory: epath.Path) -> Any:
  """Builds the vocabulary of a record, without TensorFlow.

  Raises:
    ValueError: one of its files is missing or has changed since.
  """
  for name, digest in record["files"].items():
    path = directory / name
    if not path.exists() or _digest(path) != digest:
      fault = "has changed since it was written" if path.exists() else "is gone"
      raise ValueError(
        f"{path}, of the run's vocabulary, {fault}: restore it from a copy"
      )
  first = next(iter(record["files"]), None)
  path = None if first is None else directory / first
  return build(record["kind"], path, record["settings"])


def build(
  kind: str, path: epath.Path | None, settings: Mapping[str, Any]
) -> Any:
  """Returns the plain vocabulary of a kind.

  Args:
    kind: one of `KINDS`.
    path: of its file: a prepared SentencePiece model or a tokenizer.json.
    settings: the arguments of its class, those of `converted.Converted` too if
      texts begin and end as in a converted model.
  """
  settings = dict(settings)
  is_converted = "start_id" in settings
  if kind == "bytes":
    return (converted.Bytes if is_converted else byte.Bytes)(**settings)
  if kind == "sentencepiece":
    classes = converted.SentencePiece, sentence_pieces.SentencePiece
    arguments, settings["path"] = (path.read_bytes(),), str(path)
  else:
    classes = converted.TokenizerJson, tokenizer_json.TokenizerJson
    arguments = (str(path),)
  return classes[not is_converted](*arguments, **settings)


def _tokenizer(path: pathlib.Path, directory, beside) -> list[str]:
  """Returns names of a tokenizer's files in a run, copying them if need be."""
  path, run = path.absolute(), pathlib.Path(directory).absolute()
  # The name is how its format is known.
  first = "tokenizer.txt" if path.suffix == ".txt" else "tokenizer.json"
  if path.name == byte_bpe.NAME:
    first, beside = path.name, (byte_bpe.MERGES, *beside)
  files = [path, *(path.with_name(name) for name in beside)]
  files = [file for file in files if file.is_file()]
  if path.is_relative_to(run):  # As in a converted run.
    return [file.relative_to(run).as_posix() for file in files]
  folder = run / _FOLDER
  folder.mkdir(exist_ok=True)
  names = [first, *(file.name for file in files[1:])]
  for file, name in zip(files, names, strict=True):
    with disk.partial(folder / name) as temporary:
      temporary.write_bytes(file.read_bytes())
  return [f"{_FOLDER}/{name}" for name in names]


def _digest(path: epath.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()
