"""Loads a Hugging Face directory to read and write text, without conversion."""

import dataclasses
import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from absl import logging

from t5x_lite import row_formats
from t5x_lite.data.vocabulary_record import Feature, TextTask
from t5x_lite.devices.layout import Layout
from t5x_lite.inference import chat, converted_vocabulary
from t5x_lite.inference.language_model import LanguageModel
from t5x_lite.interop import generation as generation_lib
from t5x_lite.interop import load_hf

# The longest texts of models without a limit of their own.
_LONGEST = 32_768
# New tokens where no file says how many; `transformers` takes 20.
_NEW_TOKENS = 128
_LIMITS = ("max_position_embeddings", "n_positions")


def load(
  directory: str | os.PathLike,
  *,
  layout: Layout | None = None,
  ignore: Collection[str] = (),
) -> LanguageModel:
  """Loads a model that `transformers` saved, with its tokenizer.

  Its generation_config.json, or config.json, says how texts begin and end, and
  how tokens are chosen.

  Args:
    directory: with config.json, safetensors and the files of the tokenizer.
    layout: the devices; None means the first.
    ignore: options of these files that are not read.

  Raises:
    ValueError: a file is missing, damaged, or says what is not supported.
  """
  directory = pathlib.Path(directory).expanduser()
  loaded = load_hf(directory, layout=layout)
  row_format = loaded.model.row_format
  is_pair = row_format is row_formats.ENCODER_DECODER
  if not is_pair and row_format is not row_formats.CAUSAL:
    raise ValueError(
      f"{directory} holds a model of architecture {row_format.name}, which "
      "does not generate: give an encoder-decoder or a language model"
    )
  generation = generation_lib.read(
    directory,
    is_encoder_decoder=is_pair,
    vocab_size=loaded.model.transformer.vocab_size,
    ignore=ignore,
  )
  found = converted_vocabulary.find(
    directory, generation, is_encoder_decoder=is_pair, ignore=ignore
  )
  if found is None:
    raise ValueError(
      f"{directory} has no tokenizer that can be used: spiece.model, "
      "tokenizer.json or tokenizer.model with an end of sequence, and padding "
      "or a special token at id 0"
    )
  for note in (*loaded.notes, *generation.notes):
    logging.info("%s", note)
  vocabulary = converted_vocabulary.build(found)
  model = loaded.model.fit_vocabulary(vocabulary.vocab_size)
  names = ("inputs", "targets") if is_pair else ("targets",)
  lengths = _lengths(model, loaded.options, names)
  constraints = generation.constraints
  if constraints.max_new_tokens is None and constraints.max_length is None:
    most = min(_NEW_TOKENS, lengths["targets"])
    constraints = dataclasses.replace(constraints, max_new_tokens=most)
  return LanguageModel(
    model=model,
    params=loaded.params,
    task=TextTask(
      name=str(directory),
      features={name: Feature(vocabulary, True) for name in names},
      delimiters=() if is_pair else (" ",),
    ),
    lengths=lengths,
    sampler=generation.sampler,
    constraints=constraints,
    layout=layout,
    chat_template=chat.read(directory),
  )


def _lengths(
  model: Any, options: Mapping[str, Any], names: Collection[str]
) -> dict[str, int]:
  """Returns the longest texts, within the positions that the model has."""
  said = [
    options[name] for name in _LIMITS if isinstance(options.get(name), int)
  ]
  lengths = {}
  for name in names:
    side = "encoder" if name == "inputs" else "decoder"
    stack = getattr(model.transformer, side) or model.transformer.decoder
    limit = getattr(stack.position, "max_length", None)
    if limit is not None and len(names) > 1:
      limit -= 2  # For the start and end tokens around texts.
    lengths[name] = limit or min([_LONGEST, *said])
  return lengths
