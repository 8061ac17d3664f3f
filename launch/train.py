"""Trains a model: `t5x_lite train`."""

import sys

from absl import flags

from launch import options

USAGE = "--gin_file=FILE --model_dir=RUN [flags]"
DETAILS = """
Writes checkpoints, metrics.jsonl, TensorBoard events, samples, and the whole
configuration (config.gin) to RUN. The same command resumes a run; so does
--model_dir=RUN alone. On Ctrl-C or SIGTERM, and when Google Cloud announces
that it takes the machine away, a checkpoint is saved first, by all processes at
one step.

Any number of processes resumes a run, with the same batches. On CPUs it goes on
with the same bits too, if the devices are as many in all, in the same mesh, and
--num_processes is given, also for one (launch/local.sh does so); with other
devices sums are rounded otherwise. --gin.data.Data.num_streams=N lets up to N
processes share the reading.

Training that diverges stops with status 2: updates that are not finite
(run.Run.max_skipped_steps) or a loss far above those before
(run.Run.loss_spike). --gin.run.Run.sdc_check_every=N computes every N-th step
twice and compares the devices' copies, to find those that compute wrongly.

Records in metrics.jsonl have the share of the run's time that went into steps
("goodput"), compilation, waiting for data, checkpoints, evaluation, samples and
restarts, lost work included, over all starts. Tokens per second and the time
left are of training alone.

Exit status: 0 done; 2 a mistake in the command or its data, or divergence; 130
Ctrl-C; 75 SIGTERM or a notice of Google Cloud's: the same command goes on; 74
no batch came for Run.batch_timeout_seconds (1800), and all stacks are printed;
69 another process of the run was lost, which JAX may also notice only after
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
  flags.DEFINE_string(
    "profile", None,
    "STEP:COUNT: profile COUNT steps from STEP on, into RUN/profile. SIGUSR1 "
    "profiles 3 steps, or COUNT, from the next one on.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "replay", None,
    "Repeat this step only, at which training has stopped (RUN/stopped-STEP): "
    "print the norms of its parameters and gradients and whether the loss has "
    "the same bits, and write nothing.",
    lower_bound=1, flag_values=values,
  )  # fmt: skip
  flags.DEFINE_boolean(
    "allow_changed_data", False,
    "Resume although files that the run reads have changed since its last "
    "start: it goes on with other examples.",
    flag_values=values,
  )  # fmt: skip
  options.process_flags(values)


def main(values, arguments):
  """Builds the run, writes its provenance, and trains."""
  options.no_arguments("train", arguments)
  options.require(values, "model_dir")
  from t5x_lite.training.goodput import Clock

  clock = Clock()
  from t5x_lite.training.profiling import Profile

  with Profile.parse(values.profile).listening() as profile:
    _train(
      values, clock=clock, profile=profile,
      allow_changed_data=values.allow_changed_data,
    )  # fmt: skip


def _train(values, **watching):
  from launch import config, environment, rundir, session

  session.load(values)
  directory = rundir.RunDirectory(values.model_dir)
  session.start_processes(values)
  environment.load_tasks()

  import jax

  from t5x_lite.devices import agreement
  from t5x_lite.training import Run, replaying, train

  run = config.build(Run)
  if jax.process_count() > 1:
    agreement.check(rundir.facts(run))
  if values.replay:
    replaying.replay(run, model_dir=values.model_dir, step=values.replay)
    return
  changed = directory.check(run)
  if jax.process_index() != 0:
    train(run, model_dir=values.model_dir, **watching)
    return
  with directory.locked():
    for line in changed:
      rundir.say(f"resuming with {line}")
    directory.start(run, sys.argv)
    try:
      train(run, model_dir=values.model_dir, **watching)
    except ValueError:
      directory.undo()
      raise
