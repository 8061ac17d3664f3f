"""Makes a run, at step 0, of weights that come from elsewhere."""

import json
import pathlib
import sys
import tempfile

from launch import config, environment, gin_writer, rundir

# What a converted T5, or language model, may be asked for and evaluated on, by
# default.
_FILES = {
  "encoder_decoder": (
    "objectives/span_corruption.gin", "optim/adafactor_t5.gin",
    "runs/pretrain.gin",
  ),
  "causal": (
    "objectives/causal_lm.gin", "optim/adamw.gin", "runs/pretrain.gin",
  ),
}  # fmt: skip
_LENGTHS = {
  "encoder_decoder": "INPUTS = 512\nTARGETS = 114\n",
  "causal": "TARGETS = 512\n",
}


def write(model, params, output: pathlib.Path, values) -> bool:
  """Writes config.gin and a checkpoint.

  Args:
    model: with a vocabulary of known size.
    params: of the model.
    output: the run's directory, where its tokenizer's files already are.
    values: flags: gin_file, gin_bindings and gin_search_paths say what the run
      is trained on.

  Returns:
    Whether the run has a vocabulary, so that text can be given to it.

  Raises:
    ValueError: the gin files change the model, or the tokenizer is too large.
  """
  files, own = list(values.gin_file), gin_writer.text(model)
  find = {"encoder_decoder": _t5_vocabulary, "causal": _causal_vocabulary}
  vocabulary = find.get(model.architecture, lambda folder: None)(output)
  if vocabulary is not None:
    own += vocabulary + ("" if files else _LENGTHS[model.architecture])
    files = files or list(_FILES[model.architecture])
  with tempfile.NamedTemporaryFile("w", suffix=".gin") as file:
    file.write(own)
    file.flush()
    with environment.importing():
      config.load(
        [*files, file.name], values.gin_bindings, values.gin_search_paths
      )
  from t5x_lite import checkpoint
  from t5x_lite import model as model_lib
  from t5x_lite import run as run_lib

  _check_same(config.build(model_lib.Model), model)
  if config.is_bound(run_lib.Run):
    _write_whole(output, config.build(run_lib.Run))
  else:
    (output / rundir.CONFIG).write_text(config.text())
  with checkpoint.Checkpoints(output, run_lib.Keep()) as checkpoints:
    checkpoints.save(0, {"params": params})
  return vocabulary is not None


def _t5_vocabulary(folder: pathlib.Path) -> str | None:
  """Returns bindings of the vocabulary whose files are in a folder, or None.

  Of an encoder-decoder, only T5's kinds: their decoders start with id 0 and
  their texts end with 1, as ours do.
  """
  settings = _settings(folder)
  model = folder / "spiece.model"
  if model.exists():
    # mT5's model holds its sentinels itself, and says 0.
    extra_ids = settings.get("extra_ids", 100)
    lines = [
      f"vocabularies.SentencePiece.path = {str(model.absolute())!r}",
      f"vocabularies.SentencePiece.extra_ids = {extra_ids}",
    ]
    value = "@vocabularies.SentencePiece()"
  elif settings.get("tokenizer_class") == "ByT5Tokenizer":
    lines, value = [], "'bytes'"
  else:
    return None
  return _bindings("vocabularies", lines, value)


def _causal_vocabulary(folder: pathlib.Path) -> str | None:
  """Returns bindings of a language model's vocabulary, or None.

  Its texts begin with the tokenizer's bos_token or, where it names none, with
  the one that ends the text before. A tokenizer whose id 0 is text
  has other ids here than the weights have rows.
  """
  settings = _settings(folder)
  eos = _token(settings.get("eos_token"))
  start = _token(settings.get("bos_token")) or eos
  if eos is None:
    return None
  path = folder / "tokenizer.json"
  if path.exists():
    from tasks import hf_vocabulary

    found = hf_vocabulary.HuggingFaceTokenizer(str(path), extra_ids=0, eos=eos)
    if found.offset:
      return None
    module, name = "hf_vocabulary", "HuggingFaceTokenizer"
    lines = [f"{module}.{name}.eos = {eos!r}"]
  elif (folder / "tokenizer.model").exists():
    path, lines = folder / "tokenizer.model", []
    module, name = "vocabularies", "SentencePiece"
  else:
    return None
  lines += [
    f"{module}.{name}.path = {str(path.absolute())!r}",
    f"{module}.{name}.extra_ids = 0",
    f"{module}.{name}.start = {start!r}",
  ]
  return _bindings(module, lines, f"@{module}.{name}()")


def _settings(folder) -> dict:
  path = folder / "tokenizer_config.json"
  return json.loads(path.read_text()) if path.exists() else {}


def _token(value) -> str | None:
  """Reads a token, which may be an object with its settings."""
  return value["content"] if isinstance(value, dict) else value


def _bindings(module, lines, value) -> str:
  lines = [
    "from tasks import text",
    f"from tasks import {module}",
    *lines,
    f"text.corpus_task.vocabulary = {value}",
    f"text.text_task.vocabulary = {value}",
  ]
  return "\n".join(lines) + "\n"


def _check_same(built, model):
  found = rundir.differences(rundir.flatten(model), rundir.flatten(built))
  if found:
    path, how = next(iter(found.items()))
    raise ValueError(
      f"--gin_file or --gin flags change the weights' model: {path} is {how};"
      " leave models/ out of them"
    )


def _write_whole(output, run):
  """Writes what commands need to run on text."""
  environment.load_tasks()
  from t5x_lite import data, vocabulary_record

  run.model.fit_vocabulary(data.required_vocab_size(run.train.task))
  directory = rundir.RunDirectory(output)
  directory.check(run)
  directory.start(run, sys.argv)
  vocabulary_record.write(run.train.task, output)
