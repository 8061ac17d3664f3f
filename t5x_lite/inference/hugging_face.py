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
# By row format: the features of texts.
_FEATURES = {
  row_formats.ENCODER_DECODER: ("inputs", "targets"),
  row_formats.CAUSAL: ("targets",),
  row_formats.ENCODER: ("inputs", "targets", "weights"),
}
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
  for name in loaded.options.get("architectures") or ():
    if name.endswith("Classification"):
      raise ValueError(
        f"{directory} holds a {name}, whose head predicts classes: give a "
        "model that predicts words, such as BertForMaskedLM"
      )
  generation = generation_lib.UNSAID
  if row_format.generates:
    generation = generation_lib.read(
      directory,
      is_encoder_decoder=not row_format.shares_row,
      vocab_size=loaded.model.transformer.vocab_size,
      ignore=ignore,
    )
  found = converted_vocabulary.find(
    directory, generation, row_format=row_format, ignore=ignore
  )
  if found is None:
    raise ValueError(
      f"{directory} has no tokenizer that can be used: spiece.model, "
      "tokenizer.json, vocab.txt, vocab.json with merges.txt, or "
      "tokenizer.model with an end of sequence, and padding or a special token "
      "at id 0"
    )
  for note in (*loaded.notes, *generation.notes):
    logging.info("%s", note)
  vocabulary = converted_vocabulary.build(found)
  model = loaded.model.fit_vocabulary(vocabulary.vocab_size)
  names = _FEATURES[row_format]
  if layout is not None:
    layout = layout.fit(model.logical_axes(), model.abstract())
  lengths = _lengths(model, loaded.options, names, vocabulary)
  constraints = generation.constraints
  says_length = constraints.max_new_tokens or constraints.max_length
  if row_format.generates and says_length is None:
    most = min(_NEW_TOKENS, lengths["targets"])
    constraints = dataclasses.replace(constraints, max_new_tokens=most)
  return LanguageModel(
    model=model,
    params=loaded.params,
    task=TextTask(
      name=str(directory),
      # What an encoder reads gets its ends as its row is laid out.
      features={
        name: Feature(vocabulary, row_format.generates) for name in names
      },
      delimiters=(" ",) if row_format.shares_row else (),
    ),
    lengths=lengths,
    sampler=generation.sampler,
    constraints=constraints,
    layout=layout,
    chat_template=chat.read(directory),
  )


def _lengths(
  model: Any,
  options: Mapping[str, Any],
  names: Collection[str],
  vocabulary: Any,
) -> dict[str, int]:
  """Returns the longest texts, within the positions that the model has."""
  said = [
    options[name] for name in _LIMITS if isinstance(options.get(name), int)
  ]
  lengths = {}
  for name in names:
    encoder, decoder = model.transformer.encoder, model.transformer.decoder
    stack = (encoder if name == "inputs" else decoder) or encoder or decoder
    limit = getattr(stack.position, "max_length", None)
    if limit is not None:
      if len(names) > 1:
        limit -= 2  # For the start and end tokens around texts.
      elif vocabulary.begin_id is not None:
        limit -= 1  # For a second start token.
    lengths[name] = limit or min([_LONGEST, *said])
  return lengths
