"""Writes the offline cache of a task: `t5x_lite cache`."""

from absl import flags

from launch import flag_checks, options

USAGE = "[TASK] --cache_dir=DIR [flags]"
DETAILS = """
Runs a task's preprocessing up to its CacheDatasetPlaceholder, for example
tokenization, and writes the result in the format of seqio's cached tasks, on
this machine and without Apache Beam. Later steps (windows, noise) still run in
each epoch. TASK defaults to the task of the gin files. To train on a cache, set
data.Data.cache_dir.
"""
EXAMPLE = """
t5x_lite cache offline_sort --cache_dir=cache
t5x_lite cache --gin_file=gin/objectives/ul2.gin --cache_dir=cache
t5x_lite train ... --gin.data.Data.cache_dir='"cache"'
"""


def define(values):
  """Defines the command's flags."""
  options.gin_flags(values)  # A gin file may register tasks of its own.
  flags.DEFINE_string(
    "cache_dir", None, "Folder of the caches.", flag_values=values
  )
  flags.DEFINE_integer(
    "num_shards", 16, "Files per split.", lower_bound=1, upper_bound=100_000,
    flag_values=values,
  )  # fmt: skip


def main(values, arguments):
  """Writes the cache of a task, or of each task of a mixture."""
  from launch import config, environment, session

  options.require(values, "cache_dir")
  flag_checks.output(values, "cache_dir", folder=True)
  environment.load_tasks()
  names = arguments
  if values.gin_file or values.gin_bindings:
    session.load(values)
    from t5x_lite.data import Data

    names = arguments or [config.bound(Data).get("task")]
  if len(names) != 1 or not names[0]:
    raise ValueError(
      f"give one task or mixture, or a gin file with one, not {len(arguments)}"
    )
  from t5x_lite.data import task_cache
  from t5x_lite.data.resolved_task import resolve

  for task in resolve(names[0]).parts:
    task_cache.write(task, values.cache_dir, num_shards=values.num_shards)
