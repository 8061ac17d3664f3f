"""Holds the steps that commands share: configuration, processes, runs."""

import dataclasses
import pathlib
import re
from typing import Any

from etils import epath

from launch import config, environment, gin_slice, rundir
from t5x_lite.files.slow import announced


def load(values, needed=None):
  """Reads the configuration that a command's flags name.

  Without --gin_file, the one that --model_dir was trained with.

  Args:
    values: the command's flags.
    needed: what to read of a run's configuration, if flags change no more than
      its model (gin_slice.Needed); None means all.
  """
  recorded = None
  if not values.gin_file and names_run(values):
    recorded = _recorded(values.model_dir)
    if recorded is None:
      raise ValueError(
        f"--model_dir={values.model_dir} holds no run (no {rundir.CONFIG} in "
        "it): give --gin_file, or the directory of a run"
      )
  is_little = recorded is not None and _changes_little(values)
  _read(values, recorded, needed=needed if is_little else None)


def load_on_top(values):
  """Reads a run's configuration, and what the flags change of it.

  Raises:
    ValueError: --model_dir holds none, and no --gin_file stands in for it.
  """
  if recorded := _recorded(values.model_dir):
    _read(values, recorded)
  else:
    load(values)


def names_run(values) -> bool:
  """Tells whether a command has the flag --model_dir, and it is given."""
  return "model_dir" in values and bool(values.model_dir)


def _recorded(model_dir) -> epath.Path | None:
  """Returns the file with a run's configuration, if there is one."""
  path = epath.Path(model_dir) / rundir.CONFIG
  return path if path.exists() else None


def _read(values, recorded, needed=None):
  with environment.importing():  # A file may import tasks.
    config.load(
      values.gin_file,
      values.gin_bindings,
      values.gin_search_paths,
      recorded=recorded,
      allowed=values.allow_import if recorded else (),
      # `plan` is of devices that are not here.
      accelerator=True if "topology" in values else None,
      started_with=_recorded(values.model_dir) if names_run(values) else None,
      needed=needed,
    )


def start_processes(values):
  """Joins the other processes of this run, where there are any."""
  from t5x_lite.devices import layout as layout_lib

  layout_lib.initialize_distributed(
    coordinator_address=values.coordinator_address,
    num_processes=values.num_processes,
    process_id=values.process_id,
  )


# What describes how a run reads and writes text, and no more: reading the rest
# would import the run's tasks, and with them TensorFlow.
_OF_TEXT = gin_slice.Needed(
  roots=("run.Run", "model.Model"),
  parameters={
    "run.Run": ("model", "train", "layout", "sampler", "constraints"),
    "data.Data": ("lengths", "batch_size"),
  },
  added={"data.Data.task": "recorded"},
)


@dataclasses.dataclass(frozen=True)
class Restored:
  """Holds a run and the parameters of one of its checkpoints.

  Attributes:
    run: the `Run`.
    task: the `ResolvedTask` that it trains on.
    model: with a vocabulary of known size.
    params: the model's.
    layout: the devices that the parameters are on.
    step: of the checkpoint.
  """

  run: Any
  task: Any
  model: Any
  params: Any
  layout: Any
  step: int


def restore(values) -> Restored:
  """Builds the run that a command's flags name and reads its parameters.

  Raises:
    ValueError: there is no run, or no checkpoint that fits it.
  """
  load_on_top(values)
  start_processes(values)
  environment.load_tasks()

  from t5x_lite.data import vocabulary_record
  from t5x_lite.data.resolved_task import resolve
  from t5x_lite.training import run as run_lib

  run = config.build(run_lib.Run)
  task = resolve(run.train.task)
  vocabulary_record.check(task, values.model_dir)
  model = run.model.fit_vocabulary(task.vocab_size)
  params, layout, step = read_params(
    model, layout_of(values, run.layout), values.model_dir, values.step
  )
  return Restored(run, task, model, params, layout, step)


def language_model(values) -> Any:
  """Returns the `LanguageModel` of a run that a command's flags name.

  What the run records of its task is enough. If it records nothing (it is of an
  earlier version, or has a vocabulary of the user's own class), or if flags
  change more than the model, sampling and layout, the run is restored.

  Raises:
    ValueError: there is no run, or no checkpoint that fits it.
  """
  from t5x_lite.data import vocabulary_record
  from t5x_lite.devices.layout import Layout

  recorded = task = None
  if _changes_little(values):
    recorded = _recorded(values.model_dir)
    task = vocabulary_record.read(values.model_dir)
  if recorded is None or task is None:
    with announced("reading the run's task, which it does not record"):
      restored = restore(values)
    settings = vars(restored.run)
    return _language_model(values, settings, **_of_model(restored))
  _read(values, recorded, needed=_OF_TEXT)
  start_processes(values)
  environment.keep_programs()
  from t5x_lite.training import run as run_lib

  settings = config.bound(run_lib.Run)
  model = settings["model"].fit_vocabulary(task.vocab_size)
  params, layout, _ = read_params(
    model, layout_of(values, settings.get("layout", Layout())),
    values.model_dir, values.step,
  )  # fmt: skip
  return _language_model(
    values, settings, task=task, model=model, params=params, layout=layout
  )


def _of_model(restored) -> dict[str, Any]:
  names = ("task", "model", "params", "layout")
  return {name: getattr(restored, name) for name in names}


def _language_model(values, settings, **of_model):
  """Makes a `LanguageModel`, given the settings of a run by name."""
  from t5x_lite.inference import chat
  from t5x_lite.inference.language_model import LanguageModel

  said = {
    name: settings[name]
    for name in ("sampler", "constraints")
    if name in settings
  }
  remote = "://" in str(values.model_dir)
  template = None if remote else chat.read(pathlib.Path(values.model_dir))
  return LanguageModel(
    lengths=settings["train"].lengths,
    chat_template=template,
    **said,
    **of_model,
  )


def _changes_little(values) -> bool:
  """Tells whether flags leave a run's task and vocabulary as they are."""
  if values.gin_file or values.gin_search_paths:
    return False
  about_tasks = re.compile(r"(\w+/)*data\.Data\.(task|next_stage)\b")
  return config.names_only(values.gin_bindings, "t5x_lite") and not any(
    about_tasks.match(binding) for binding in values.gin_bindings
  )


def read_params(model, layout, model_dir, step=None):
  """Reads a model's parameters from a run's checkpoint.

  Returns:
    The parameters, the layout that fits them, and the step they are of.

  Raises:
    ValueError: there is no checkpoint that fits.
  """
  import jax

  from t5x_lite.checkpoints import manager

  axes, abstract = model.logical_axes(), model.abstract()
  layout = _on_these_devices(layout).fit(axes, abstract)
  shardings = layout.tree_shardings(axes, abstract)
  abstract = jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    abstract,
    shardings,
  )
  with manager.Checkpoints(model_dir) as checkpoints:
    params = checkpoints.restore_params(abstract, step)
    return params, layout, checkpoints.restored_step


def layout_of(values, recorded):
  """Returns the layout of --copies, or the one recorded."""
  if "copies" not in values or values.copies is None:
    return recorded
  from t5x_lite.devices import copies

  return copies.layout(values.copies)


def _on_these_devices(layout):
  """Returns the layout, or one that fits where it was made for others."""
  import jax

  try:
    layout.mesh_sizes(jax.device_count())
  except ValueError as error:
    rundir.say(f"{error}: rows are sharded over the devices instead")
    return layout.for_any_devices()
  return layout
