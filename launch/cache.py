"""Writes the offline cache of a task: `t5x_lite cache`."""

from absl import flags

from launch import options

USAGE = "[TASK] --cache_dir=DIR [flags]"
DETAILS = """
Does once what a task does before its CacheDatasetPlaceholder, tokenization for
example, and writes the result as seqio's cached tasks are: on this machine,
without Apache Beam. Windows and noise come after it, new in each epoch. Without
a TASK, it is that of the gin files. Runs read it with data.Data.cache_dir.
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
    "num_shards", 16, "Files of a split.", lower_bound=1, flag_values=values
  )


def main(values, arguments):
  """Writes the caches of the tasks, of a mixture's each."""
  from launch import config, environment, session

  options.require(values, "cache_dir")
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
  import seqio

  from t5x_lite.data import batches, task_cache

  for task in seqio.get_subtasks(batches.get_task(names[0])):
    task_cache.write(task, values.cache_dir, num_shards=values.num_shards)
