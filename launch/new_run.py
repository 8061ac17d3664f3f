"""Creates a run, at step 0, from converted weights."""

import dataclasses
import pathlib
import sys
import tempfile

from launch import (
  config,
  environment,
  gin_writer,
  rundir,
  vocabulary_bindings,
)
from t5x_lite import decoding, row_formats
from t5x_lite.inference import converted_vocabulary
from t5x_lite.interop import config as hf_config
from t5x_lite.interop import generation as generation_lib
from t5x_lite.interop import tokenizer_files

# The default objective, optimizer and evaluation of a converted T5, another
# encoder-decoder, a language model, or an encoder.
_FILES = {
  "sentinels": (
    "objectives/span_corruption.gin", "optim/adafactor_t5.gin",
    "runs/pretrain.gin",
  ),
  "encoder_decoder": (
    "objectives/prefix_lm.gin", "optim/adamw.gin", "runs/pretrain.gin",
  ),
  "causal": (
    "objectives/causal_lm.gin", "optim/adamw.gin", "runs/pretrain.gin",
  ),
  "encoder": ("objectives/mlm.gin", "optim/adamw.gin", "runs/pretrain.gin"),
}  # fmt: skip
_LENGTHS = {
  "sentinels": {"INPUTS": 512, "TARGETS": 114},
  "encoder_decoder": {"INPUTS": 512, "TARGETS": 512},
  "causal": {"TARGETS": 512},
  "encoder": {"INPUTS": 512},
}


def write(model, params, output: pathlib.Path, values) -> bool:
  """Writes config.gin and a checkpoint.

  Args:
    model: a model with a known vocabulary size.
    params: the model's parameters.
    output: the run's directory, which already has the tokenizer and the other
      files that come with the weights.
    values: flags: gin_file, gin_bindings and gin_search_paths configure the
      run, `ignore` names options of config.json and the like not to read.

  Returns:
    Whether the run has a vocabulary, so that it can read text.

  Raises:
    ValueError: the gin files change the model; the tokenizer is too large; the
      files that come with the weights are not supported, or do not have an
      option of `ignore`.
  """
  files, own = list(values.gin_file), gin_writer.text(model)
  generation, vocabulary = _read_companions(model, output, values.ignore)
  if vocabulary is not None:
    own += vocabulary_bindings.write(vocabulary)
    if not files:
      kind = model.row_format.name
      if vocabulary.has_sentinels and kind == "encoder_decoder":
        kind = "sentinels"
      files = list(_FILES[kind])
      own += _lengths(kind, model, vocabulary)
  if generation is not None and (vocabulary is not None or files):
    own += _generation_bindings(generation)
  with tempfile.NamedTemporaryFile("w", suffix=".gin") as file:
    file.write(own)
    file.flush()
    with environment.importing():
      config.load(
        [*files, file.name], values.gin_bindings, values.gin_search_paths
      )
  from t5x_lite import model as model_lib
  from t5x_lite.checkpoints import Retention, manager
  from t5x_lite.training import run as run_lib

  _check_same(config.build(model_lib.Model), model)
  if config.is_bound(run_lib.Run):
    _write_whole(output, config.build(run_lib.Run))
  else:
    config.write(output / rundir.CONFIG)
  with manager.Checkpoints(output, Retention()) as checkpoints:
    checkpoints.save(0, {"params": params})
  return vocabulary is not None


def _read_companions(model, folder, ignore):
  """Reads the generation settings and the tokenizer that come with weights.

  Returns:
    The generation settings, or None if there are no files or the model does not
    generate; and the vocabulary, or None.
  """
  row_format = model.row_format
  pair = row_format is row_formats.ENCODER_DECODER
  is_read = row_format.name in _LENGTHS and _predicts_words(model)
  _check_ignored(ignore, folder if is_read else None)
  if not is_read:
    return None, None
  generation = generation_lib.UNSAID
  names = (hf_config.NAME, generation_lib.NAME)
  if row_format.generates and any((folder / x).exists() for x in names):
    generation = generation_lib.read(
      folder,
      is_encoder_decoder=pair,
      vocab_size=model.transformer.vocab_size,
      ignore=ignore,
    )
    for note in generation.notes:
      rundir.say(note)
  vocabulary = converted_vocabulary.find(
    folder, generation, row_format=row_format, ignore=ignore
  )
  if not row_format.generates:
    return None, vocabulary
  constraints = generation.constraints
  if vocabulary is not None and constraints.ends == (vocabulary.eos_id,):
    # The vocabulary's EOS is the default already.
    constraints = dataclasses.replace(constraints, ends=())
    generation = dataclasses.replace(generation, constraints=constraints)
  return generation, vocabulary


def _predicts_words(model) -> bool:
  """Tells whether a model has a head over the vocabulary, not of classes."""
  transformer = model.transformer
  is_classifier = transformer.classifier is not None
  return not is_classifier or transformer.lm_head.transform is not None


def _check_ignored(ignore, folder):
  """Refuses to ignore options that no file has; None reads no files."""
  said = set()
  if folder is not None:
    said = generation_lib.options(folder) | tokenizer_files.options(folder)
  unknown = [name for name in ignore if name not in said]
  if unknown:
    raise ValueError(
      f"--ignore={unknown[0]}: no file that comes with the weights has this "
      f"option; they have: {', '.join(sorted(said)) or 'none'}"
    )


def _lengths(kind, model, vocabulary) -> str:
  """Returns bindings of the row lengths, within the learned positions."""
  sides = {"INPUTS": "encoder", "TARGETS": "decoder"}
  lines = []
  for name, length in _LENGTHS[kind].items():
    stack = getattr(model.transformer, sides[name])
    limit = getattr(stack.position, "max_length", None)
    if limit is not None:
      # Texts may get a start and an end token, or a second start token.
      limit -= 2 if kind != "causal" else "begin_id" in vocabulary.around
      length = min(length, limit)
    lines.append(f"{name} = {length}\n")
  return "".join(lines)


def _generation_bindings(generation) -> str:
  """Returns bindings of the sampler and constraints, if they are set."""
  text = ""
  for name, value in (
    ("constraints", generation.constraints),
    ("sampler", generation.sampler),
  ):
    if value not in (decoding.UNCONSTRAINED, decoding.GREEDY):
      kind = gin_writer.name(value)
      text += (
        gin_writer.text(value, header=False) + f"run.Run.{name} = @{kind}()\n"
      )
  return text and f"from t5x_lite.training import run\n{text}"


def _check_same(built, model):
  found = rundir.differences(rundir.flatten(model), rundir.flatten(built))
  if found:
    path, how = next(iter(found.items()))
    raise ValueError(
      f"--gin_file or --gin flags change the converted model: {path} is {how};"
      " leave out the files in models/"
    )


def _write_whole(output, run):
  """Writes the run's directory and its vocabulary record."""
  environment.load_tasks()
  from t5x_lite.data import vocabulary_record
  from t5x_lite.data.resolved_task import resolve

  task = resolve(run.train.task)
  run.model.fit_vocabulary(task.vocab_size)
  directory = rundir.RunDirectory(output)
  directory.check(run)
  directory.start(run, sys.argv)
  vocabulary_record.write(task, output)
