"""Loads a run or a Hugging Face directory, to read and write text."""

import pathlib
from typing import Any

from launch import rundir
from t5x_lite.interop import config as hf_config


def of_flags(values) -> Any:
  """Returns the `LanguageModel` of the directory that flags name.

  Raises:
    ValueError: there is neither a run nor a Hugging Face model in it.
  """
  from launch import session

  path = values.model_dir
  if not _is_hugging_face(path):
    if values.ignore:
      raise ValueError(
        f"--ignore={','.join(values.ignore)} is for a Hugging Face directory: "
        "leave it out for a run, whose settings --gin.NAME=VALUE changes"
      )
    return session.language_model(values)
  flags = {
    "step": values.step is not None,
    "gin_file": values.gin_file,
    "gin": values.gin_bindings,
  }
  if given := [name for name, value in flags.items() if value]:
    raise ValueError(
      f"--{given[0]} is for a run, and --model_dir={path} is a Hugging Face "
      "directory: leave it out, or make a run of it by t5x_lite convert"
    )
  from launch import environment
  from t5x_lite.inference import hugging_face

  session.start_processes(values)
  environment.keep_programs()
  layout = session.layout_of(values, None)
  return hugging_face.load(path, layout=layout, ignore=values.ignore)


def load(directory: str, **flags: Any) -> Any:
  """Loads a run, or a Hugging Face directory as it is.

  Args:
    directory: of the run (its newest checkpoint is taken) or of the model.
    **flags: of `t5x_lite infer`, such as `step=1000`,
      `allow_import=["my_model"]`, `gin_bindings=["run.Run.layout=..."]` or
      `ignore=["num_beams"]`.

  Returns:
    A `LanguageModel`, with `generate`, `stream`, `score` and `embed`.

  Raises:
    ValueError: there is no model in the directory that can be used.
  """
  from launch import infer, options

  values = options.flags_of("infer", infer)
  options.parse("infer", values, [])
  for name, value in {"model_dir": str(directory), **flags}.items():
    if name not in values:
      raise TypeError(f"load has no argument {name!r}")
    values[name].value = value
  return of_flags(values)


def _is_hugging_face(path) -> bool:
  if "://" in str(path):
    return False
  folder = pathlib.Path(path).expanduser()
  return (folder / hf_config.NAME).exists() and not (
    folder / rundir.CONFIG
  ).exists()
