"""Trains a model: `t5x_lite train`."""

import sys

from launch import options

USAGE = "--gin_file=FILE --model_dir=RUN [flags]"
DETAILS = """
Writes checkpoints, metrics.jsonl, TensorBoard events, samples, and the whole
configuration (config.gin) to RUN. The same command resumes a run; so does
--model_dir=RUN alone. On Ctrl-C or SIGTERM, and when Google Cloud announces
that it takes the machine away, a checkpoint is saved first, by all processes at
one step.

Exit status: 0 done; 2 a mistake in the command or its data, or divergence; 130
Ctrl-C; 75 SIGTERM or a notice of Google Cloud's: the same command goes on; 69
another process of the run was lost, which JAX may also notice only after
$T5X_LITE_HEARTBEAT_SECONDS (100): then 134. Any other is a crash. `python -m
launch.autoresume -- t5x_lite train ...` starts again what can go on.
"""
EXAMPLE = """
t5x_lite train --gin_file=gin/runs/quickstart.gin --model_dir=runs/first \\
  --gin.run.Run.total_steps=200 --gin.run.Run.seed=1
"""


def define(values):
  """Defines the command's flags."""
  options.gin_flags(values)
  options.model_dir_flag(
    values,
    "Directory of the run; created if missing. A run in it is resumed.",
  )
  options.process_flags(values)


def main(values, arguments):
  """Builds the run, writes its provenance, and trains."""
  options.no_arguments("train", arguments)
  options.require(values, "model_dir")
  from launch import config, environment, rundir, session

  session.load(values)
  directory = rundir.RunDirectory(values.model_dir)
  session.start_processes(values)
  environment.load_tasks()

  import jax

  from t5x_lite.training import Run, train

  run = config.build(Run)
  changed = directory.check(run)
  if jax.process_index() != 0:
    train(run, model_dir=values.model_dir)
    return
  with directory.locked():
    for line in changed:
      rundir.say(f"resuming with {line}")
    directory.start(run, sys.argv)
    try:
      train(run, model_dir=values.model_dir)
    except ValueError:
      directory.undo()
      raise
