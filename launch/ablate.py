"""Runs a study of many arms under one budget: `t5x_lite ablate`."""

import pathlib

from absl import flags

from launch import flag_checks, options

USAGE = "--gin_file=NAME.gin [flags]"
DETAILS = """
A study (t5x_lite/ablation/study.py) is a grid of models, objectives and other
settings, run with several seeds under one budget. Each arm is a run in
DIR/arms, trained by `t5x_lite train` and measured by `t5x_lite measure`. So are
its further stages (adaptation, fine-tuning). DIR is --output, or studies/NAME.
The same command resumes a study that was interrupted and skips finished arms.
The results are in DIR/report.html, and `tensorboard --logdir=DIR/arms` groups
the runs by their settings.
"""
EXAMPLE = """
t5x_lite ablate --gin_file=gin/ablations/denoising_vs_clm.gin --dry_run
t5x_lite ablate --gin_file=gin/ablations/denoising_vs_clm.gin --jobs=2
"""


def define(values):
  """Defines the command's flags."""
  options.gin_flags(values)
  flags.DEFINE_string(
    "output", None,
    "Directory of the study; created if missing. By default studies/NAME, with "
    "the name of the first gin file.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_bool(
    "dry_run", False,
    "Print the arms, their costs and the expected time; write and run nothing.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_bool(
    "resume", True,
    "Resume the study in --output if there is one; --noresume refuses to.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "jobs", 1,
    "Arms to run in parallel; 0 runs none, and reports the results so far.",
    lower_bound=0,
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "arm", None,
    "Run only this arm, counted from 1, for one cluster job per arm. Run with "
    "--jobs=0 before, to plan the study, and afterwards, to collect results. "
    "See launch/slurm.sbatch and launch/gke.sh.", lower_bound=1,
    flag_values=values,
  )  # fmt: skip


def main(values, arguments):
  """Plans the study, runs its unfinished arms, and writes the report."""
  options.no_arguments("ablate", arguments)
  if not values.gin_file:
    raise ValueError("give --gin_file, a study such as gin/ablations/smoke.gin")
  flag_checks.output(values, "output", folder=True)
  from launch import arms, config, environment, rundir, session, study_plan

  session.load(values)
  from t5x_lite.ablation import study as study_lib

  study = config.build(study_lib.Study)
  text = config.text()
  environment.load_tasks()
  if values.dry_run:
    plan = study_plan.make(study, text, values.gin_search_paths)
    print(study_plan.table(plan))
    return 0
  folder = pathlib.Path(
    values.output or f"studies/{pathlib.Path(values.gin_file[0]).stem}"
  )
  plan = _plan(folder, study, text, values)
  jobs = [
    arms.Arm(folder, entry, values.gin_search_paths) for entry in plan["arms"]
  ]
  if values.arm:
    if values.arm > len(jobs):
      raise ValueError(f"--arm ({values.arm}) must be 1 to {len(jobs)}")
    failed = arms.run_all([jobs[values.arm - 1]], 1, rundir.say)
    return 1 if failed else 0
  rundir.say(study_plan.table(plan))
  failed = arms.run_all(jobs, values.jobs, rundir.say) if values.jobs else []
  return _report(folder, plan, failed, rundir.say)


def _plan(folder, study, text, values) -> dict:
  """Returns the plan in a directory; makes one if there is none."""
  from launch import study_file, study_plan
  from t5x_lite.files import lock

  plan = study_file.find(folder, text)
  if plan is not None and not values.resume:
    raise ValueError(
      f"--output={folder} already has this study: leave out --noresume, or "
      "give another --output"
    )
  if plan is None and values.arm:
    raise ValueError(
      f"--output={folder} has no study yet: plan it first, with --jobs=0"
    )
  if plan is None:
    try:
      with lock.directory(folder):
        plan = study_plan.make(study, text, values.gin_search_paths)
        study_file.write(folder, plan)
    except lock.Held as other:
      raise ValueError(
        f"--output={folder} is being planned by {other.holder}: wait for its "
        "end, or give another --output"
      ) from None
  study_file.check_arms(plan, study, folder)
  return plan


def _report(folder, plan, failed, say) -> int:
  from t5x_lite.ablation import report, results, tensorboard_hparams
  from t5x_lite.files import disk, json_text, lock

  with lock.exclusive(folder / lock.NAME, wait=True):
    tensorboard_hparams.label(folder, plan)
    found = results.gather(folder, plan)
    text = json_text.dumps(found, what="results.json")
    disk.write_text(folder / "results.json", f"{text}\n")
    report.write(found, folder)
  say(f"{found['arms_done']} of {len(plan['arms'])} arms: {folder}/report.html")
  return 1 if failed else 0
