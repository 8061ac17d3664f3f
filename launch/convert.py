"""Converts between runs, Hugging Face and splits: `t5x_lite convert`."""

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from absl import flags

from launch import errors, flag_checks, options
from t5x_lite.files import json_text
from t5x_lite.files.slow import announced

USAGE = "--input=DIR --output=DIR --to=hf|run|split [flags]"
DETAILS = """
What --input is, its files say: a run has config.gin, a Hugging Face directory
config.json, a split split.json. Nothing is rounded: there and back
gives the same values, though a run reads half precision as float32.

A split has a safetensors file for each tensor- and pipeline-parallel rank. Its
format is our own, with our names: Megatron-LM does not load it.

A run that is written holds step 0, for others to start from
(checkpoints.WarmStart).
With its tokenizer beside the weights (of a T5: spiece.model or ByT5's bytes; of
others: tokenizer.json, or vocab.txt, or vocab.json and merges.txt, or of a
language model tokenizer.model), infer and score take text, and eval measures
span corruption, prefix LM, causal LM or MLM of CPython's documentation, or what
--gin_file and --gin flags say. Without, or where the tokenizer's id 0 is text,
the run holds the model alone.

Texts begin and end as `transformers` has it: generation_config.json, or
config.json where there is none, says which token a decoder starts from, which
end a text and how long texts get (run.Run.constraints), and how tokens are
chosen (run.Run.sampler); the tokenizer's files say what stands around a text.
An option that is not supported, such as beams, is refused by its name, and
--ignore goes without. pad_token_id has no effect: padding is known by itself.
A T5 without lm_head.weight has its embedding for a head, whatever
tie_word_embeddings says; that decides whether logits are scaled.
"""
EXAMPLE = """
t5x_lite convert --input=t5-v1_1-small --to=run --output=runs/t5
t5x_lite infer --model_dir=runs/t5 --text="A list is ___ of items."
t5x_lite convert --input=runs/t5 --to=hf --output=t5-tuned
t5x_lite convert --input=runs/t5 --to=split --tp=4 --pp=2 --output=split
"""

# What belongs to the weights but is not weights: copied along. Of config.json
# the next one takes over what the model does not say.
_COMPANIONS = (
  "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
  "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
  "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
  "generation_config.json", "config.json", "chat_template.jinja",
)  # fmt: skip


def define(values):
  """Defines the command's flags."""
  flags.DEFINE_string(
    "input", None, "Directory to read: a run, Hugging Face's or a split.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string(
    "output", None, "Directory to write; must hold no weights yet.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_enum(
    "to", None, ["hf", "run", "split"], "What to write.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "step", None, "Checkpoint of a run; by default the newest.", lower_bound=0,
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string(
    "family", None,
    "The model_type to write for Hugging Face; by default the first that can "
    "say all that the model computes.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_float(
    "shard_gb", 5.0, "Largest file for Hugging Face, in GB.", lower_bound=0,
    flag_values=values,
  )  # fmt: skip
  for name, what in (("tp", "Tensor"), ("pp", "Pipeline")):
    flags.DEFINE_integer(
      name, 1, f"{what}-parallel ranks of a split.", lower_bound=1,
      flag_values=values,
    )  # fmt: skip
  flags.DEFINE_list(
    "ignore", [],
    "Options of generation_config.json, config.json or the tokenizer that are "
    "not read for --to=run: num_beams,repetition_penalty, say.",
    flag_values=values,
  )  # fmt: skip
  options.allow_import_flag(values)
  options.gin_flags(values)


def main(values, arguments):
  """Reads the one and writes the other."""
  options.no_arguments("convert", arguments)
  options.require(values, "input", "output", "to")
  if values.ignore and values.to != "run":
    raise ValueError(
      f"--ignore={','.join(values.ignore)} is for --to=run, not "
      f"--to={values.to}, which copies the files as they are: leave it out"
    )
  flag_checks.output(values, "output", folder=True)
  # Bits are only moved, for which the host is enough and has the most room.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  from launch import rundir
  from t5x_lite.files import lock

  source = _read(pathlib.Path(values.input).expanduser(), values)
  output = pathlib.Path(values.output).expanduser()
  write = {"hf": _write_hf, "run": _write_run, "split": _write_split}[values.to]
  try:
    with lock.directory(output):
      write(source, output, values)
  except lock.Held as other:
    raise ValueError(
      f"--output={output} is being written by {other.holder}: wait for its "
      "end, or give another --output"
    ) from None
  rundir.say(f"wrote {output}")


@dataclasses.dataclass(frozen=True)
class _Source:
  """What is converted.

  Attributes:
    model: with a vocabulary of known size.
    params: of the model.
    companions: name -> file, or text of one, of its tokenizer and the like.
    ids: token ids as config.json has them, where a run says so.
  """

  model: Any
  params: Any
  companions: Mapping[str, pathlib.Path | str]
  ids: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@announced("reading the weights")
def _read(path: pathlib.Path, values) -> _Source:
  """Reads a directory of any of the three kinds."""
  from launch import rundir
  from t5x_lite.interop import config as hf_config
  from t5x_lite.interop import huggingface, parallel_split

  if (path / parallel_split.SPLIT).exists():
    model = _configured(path, values)[0]
    params = parallel_split.load_split(model, path)
    return _Source(model, params, _companions(path))
  if (path / rundir.CONFIG).exists():
    from launch import session
    from t5x_lite.devices.layout import Layout

    model, run = _configured(path, values)
    params = session.read_params(model, Layout(), path, values.step)[0]
    if run is None:
      return _Source(model, params, _companions(path))
    from launch import run_companions

    return _Source(model, params, *run_companions.find(run, path, _COMPANIONS))
  if (path / hf_config.NAME).exists():
    loaded = huggingface.load_hf(path, param_dtype=None)
    for note in loaded.notes:
      rundir.say(note)
    return _Source(loaded.model, loaded.params, _companions(path))
  raise ValueError(
    f"--input={path} is no run ({rundir.CONFIG} in it), no Hugging Face"
    f" directory ({hf_config.NAME}) and no split ({parallel_split.SPLIT})"
  )


def _companions(path) -> dict[str, pathlib.Path]:
  files = {name: path / name for name in _COMPANIONS}
  return {name: file for name, file in files.items() if file.exists()}


def _configured(path, values):
  """Builds the model of a directory's config.gin, and its Run or None."""
  from launch import config, environment, rundir
  from t5x_lite import model as model_lib
  from t5x_lite.training import run as run_lib

  with environment.importing():
    config.load(
      recorded=path / rundir.CONFIG,
      search_paths=values.gin_search_paths,
      allowed=values.allow_import,
    )
  if not config.is_bound(run_lib.Run):
    return config.build(model_lib.Model), None
  environment.load_tasks()
  from t5x_lite.data.resolved_task import resolve

  run = config.build(run_lib.Run)
  model = run.model.fit_vocabulary(resolve(run.train.task).vocab_size)
  return model, run


@announced("writing the weights")
def _write_hf(source, output, values):
  from t5x_lite import interop
  from t5x_lite.interop import config as hf_config

  shard_bytes = int(values.shard_gb * 1e9)
  companions = dict(source.companions)
  earlier = companions.pop(hf_config.NAME, None)
  like = json_text.read(earlier) if earlier else {}
  interop.save_hf(
    source.model, source.params, output, shard_bytes=shard_bytes,
    family=values.family, like={**like, **source.ids},
  )  # fmt: skip
  _copy(companions, output)


@announced("writing the weights")
def _write_split(source, output, values):
  from launch import gin_writer, recorded_gin, rundir, user_modules
  from t5x_lite.files import disk
  from t5x_lite.interop import parallel_split

  parallel_split.save_split(
    source.model, source.params, output, tp=values.tp, pp=values.pp
  )
  config = user_modules.record(gin_writer.text(source.model))
  disk.write_text(output / rundir.CONFIG, recorded_gin.sealed(config))
  _copy(source.companions, output)


@announced("writing the run")
def _write_run(source, output, values):
  from launch import new_run, rundir

  if (output / rundir.CONFIG).exists():
    raise ValueError(f"--output={output} holds a run: give another directory")
  had = {entry.name for entry in output.iterdir()}
  _copy(source.companions, output)
  try:
    has_text = new_run.write(source.model, source.params, output, values)
  except ValueError as error:
    for name in source.companions.keys() - had:
      (output / name).unlink()
    if line := errors.user_line(error):
      raise ValueError(_in_source(line, source, output)) from error
    raise
  if not has_text:
    rundir.say(
      "the run holds model and weights alone: no tokenizer that it could use"
      " lies beside the weights (see t5x_lite convert --help)"
    )


def _in_source(message, source, output) -> str:
  """Names files as they lie in the input: their copies are gone."""
  for name, file in source.companions.items():
    message = message.replace(str(output / name), str(file))
  return message


def _copy(companions, output):
  from t5x_lite.files import disk

  for name, file in companions.items():
    if isinstance(file, str):
      disk.write_text(output / name, file)
    else:
      with disk.partial(output / name) as temporary:
        shutil.copyfile(file, temporary)
