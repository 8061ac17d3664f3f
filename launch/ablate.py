"""Runs a study of many arms under one budget: `t5x_lite ablate`."""

import json
import pathlib

from absl import flags

from launch import options

USAGE = "--gin_file=STUDY --output=DIR [flags]"
DETAILS = """
A study (t5x_lite/ablation/study.py) is a grid of models, objectives and other
settings, run with several seeds under one budget. Each arm is a run of its own
in DIR/arms, trained by `t5x_lite train` and measured by `t5x_lite measure`, and
so are the stages that follow on it (adaptation, fine-tuning). The same command
again goes on where it stopped and leaves finished arms alone. At the end
DIR/report.html says what came out, and `tensorboard --logdir=DIR/arms` groups
the runs by what was chosen for them.
"""
EXAMPLE = """
t5x_lite ablate --gin_file=gin/ablations/denoising_vs_clm.gin --dry_run
t5x_lite ablate --gin_file=gin/ablations/denoising_vs_clm.gin \\
  --output=studies/denoising_vs_clm
"""


def define(values):
  """Defines the command's flags."""
  options.gin_flags(values)
  flags.DEFINE_string(
    "output", None, "Directory of the study; made if need be.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_bool(
    "dry_run", False,
    "Print the arms, what each costs, and how long it will take; run none.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "jobs", 1, "Arms at a time.", lower_bound=1, flag_values=values
  )
  flags.DEFINE_bool(
    "commands", False,
    "Print what runs each arm, one line each, for a cluster's scheduler (a "
    "SLURM array takes one line a task); this command then gathers them.",
    flag_values=values,
  )  # fmt: skip


def main(values, arguments):
  """Plans, runs what is not there yet, and reports."""
  options.no_arguments("ablate", arguments)
  if not values.dry_run:
    options.require(values, "output")
  if not values.gin_file:
    raise ValueError("give --gin_file, a study such as gin/ablations/smoke.gin")
  from launch import arms, config, environment, rundir, session, study_plan

  session.load(values)
  from t5x_lite.ablation import study as study_lib

  study = config.build(study_lib.Study)
  text = config.text()
  environment.load_tasks()
  folder = pathlib.Path(values.output) if values.output else None
  plan = study_plan.find(folder, text) if folder else None
  if plan is None:
    plan = study_plan.make(study, text, values.gin_search_paths)
    if folder and not values.dry_run:
      study_plan.write(folder, plan)
  if values.dry_run:
    print(study_plan.table(plan))
    return 0
  jobs = [arms.Arm(folder, entry) for entry in plan["arms"]]
  if values.commands:
    print("\n".join(arm.shell_line() for arm in jobs))
    return 0
  rundir.say(study_plan.table(plan))
  failed = arms.run_all(jobs, values.jobs, rundir.say)
  return _report(folder, plan, failed, rundir.say)


def _report(folder, plan, failed, say) -> int:
  from t5x_lite.ablation import board, report, results

  board.label(folder, plan)
  found = results.gather(folder, plan)
  (folder / "results.json").write_text(json.dumps(found, indent=1) + "\n")
  report.write(found, folder)
  say(f"{found['arms_done']} of {len(plan['arms'])} arms: {folder}/report.html")
  return 1 if failed else 0
