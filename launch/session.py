"""Holds the steps that commands share: configuration, processes, runs."""

from etils import epath

from launch import config, rundir


def load(values):
  """Reads the configuration that a command's flags name.

  Without --gin_file, the one that --model_dir was trained with.
  """
  files = list(values.gin_file)
  model_dir = values.model_dir if "model_dir" in values else None
  if not files and model_dir:
    saved = epath.Path(model_dir) / rundir.CONFIG
    if not saved.exists():
      raise ValueError(
        f"--model_dir={model_dir} holds no run (no {rundir.CONFIG} in it): "
        "give --gin_file, or the directory of a run"
      )
    files = [str(saved)]
  config.load(files, values.gin_bindings, values.gin_search_paths)


def start_processes(values):
  """Joins the other processes of this run, where there are any."""
  from t5x_lite import partitioning

  partitioning.initialize_distributed(
    coordinator_address=values.coordinator_address,
    num_processes=values.num_processes,
    process_id=values.process_id,
  )
