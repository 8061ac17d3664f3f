"""Finds or writes the files that go with exported weights: tokenizer first."""

import pathlib
from collections.abc import Collection
from typing import Any

import seqio

from launch import rundir
from t5x_lite import row_formats
from t5x_lite.data.resolved_task import resolve
from t5x_lite.files import json_text
from t5x_lite.interop import config as hf_config
from t5x_lite.interop import generation as generation_lib
from t5x_lite.interop import tokenizer_files


def find(
  run: Any, folder: pathlib.Path, names: Collection[str]
) -> tuple[dict[str, pathlib.Path | str], dict[str, Any]]:
  """Finds the tokenizer and generation files of a run for `transformers`.

  Args:
    run: a Run, whose task is registered.
    folder: its directory.
    names: the names of files that the directory may have.

  Returns:
    {name: path or contents of a file}; and the token ids for config.json.
  """
  task = resolve(run.train.task)
  vocabulary = task.vocabulary
  file = _file(vocabulary)
  pair = run.model.row_format is row_formats.ENCODER_DECODER
  companions = _there(folder, names)
  if not companions and file is not None:
    # A run trained from a converted one uses the vocabulary in that directory.
    if (file.parent / rundir.CONFIG).exists():
      companions = _there(file.parent, names)
  # If the vocabulary's ids differ from the file's (hf_vocabulary), the file
  # cannot be exported.
  if not companions and not getattr(vocabulary, "offset", 0):
    if settings := _settings(vocabulary, file, pair):
      companions[tokenizer_files.SETTINGS] = json_text.dumps(settings) + "\n"
    if file is not None:
      sentencepiece = "spiece.model" if pair else "tokenizer.model"
      name = "tokenizer.json" if file.suffix == ".json" else sentencepiece
      companions[name] = file
  options = generation_lib.describe(
    run.constraints,
    run.sampler,
    eos_id=vocabulary.eos_id,
    start_id=task.starts["start_id"],
    is_encoder_decoder=pair,
  )
  named = [companions.get(n) for n in (generation_lib.NAME, hf_config.NAME)]
  origin = next((path for path in named if path), None)
  like = generation_lib.said(origin.parent) if origin else {}
  companions[generation_lib.NAME] = generation_lib.text(options, like)
  return companions, hf_config.token_ids(options)


def _there(folder, names) -> dict[str, pathlib.Path]:
  return {n: folder / n for n in names if (folder / n).exists()}


def _file(vocabulary) -> pathlib.Path | None:
  """Returns the file of a vocabulary, or None."""
  for name in ("sentencepiece_model_file", "_path"):
    if path := getattr(vocabulary, name, None):
      return pathlib.Path(path)
  return None


def _settings(vocabulary, file, pair) -> dict[str, Any]:
  """Returns the contents of tokenizer_config.json."""
  if file is None:
    is_bytes = isinstance(vocabulary, seqio.ByteVocabulary)
    return {"tokenizer_class": "ByT5Tokenizer"} if is_bytes else {}
  tokenizer = vocabulary.tokenizer
  name = getattr(tokenizer, "IdToPiece", None) or tokenizer.id_to_token
  settings = {"eos_token": name(vocabulary.eos_id)}
  if file.suffix != ".json":
    settings["extra_ids"] = vocabulary.extra_ids
  if not pair:
    settings["bos_token"] = name(getattr(vocabulary, "start_id", 0))
    settings["add_bos_token"] = True
  return settings
