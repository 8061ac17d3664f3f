"""Plans a study: costs of its cells, and the steps that the budget pays for.

The plan holds the cells, their costs, the arms and their runs (study_file.py).
"""

from typing import NamedTuple

from launch import config, describe, recorded_gin, study_file
from t5x_lite.files.slow import counted


def make(study, text, search_paths=()) -> dict:
  """Returns the plan of a study.

  Args:
    study: a study.Study.
    text: the gin configuration that it was built from.
    search_paths: further folders with gin files.

  Raises:
    ValueError: a cell is invalid, other than by an objective that does not suit
      its architecture: such cells are skipped.
  """
  from t5x_lite.ablation import plan as planning
  from t5x_lite.ablation import study as study_lib

  skipped, cells, known = {}, {}, _Known({}, {})
  for cell in counted(list(study.cells()), "planning the cells"):
    if cell.skipped is not None:
      skipped[cell.name] = cell.skipped
      continue
    runs = _runs(study, cell, known, skipped, search_paths)
    if runs:
      cells[cell.name] = runs
  if not cells:
    raise ValueError(f"every cell of the study is skipped: {skipped}")
  firsts = {name: runs[study_lib.FIRST] for name, runs in cells.items()}
  planning.check_parameters(
    {name: first["account"] for name, first in firsts.items()}, study.budget
  )
  return {
    "digest": study_file.digest(text),
    "gin": text,
    "question": study.question,
    "budget": _as_dict(study.budget),
    "stages": {
      name: {"after": stage.after, "budget": _as_dict(stage.budget)}
      for name, stage in study.stages.items()
    },
    "axes": {axis: list(options) for axis, options in study.grid.items()},
    "seeds": list(study.seeds),
    "baseline": study.baseline,
    "step_ratios": _step_ratios(study, firsts, search_paths),
    "size_axis": study.size_axis,
    "contrasts": {
      title: [list(side) for side in two]
      for title, two in study.contrasts.items()
    },
    "paper": {
      "title": study.paper_title,
      "values": {kind: dict(values) for kind, values in study.paper.items()},
    },
    "skipped": skipped,
    "cells": {
      name: {
        "choices": dict(runs[study_lib.FIRST]["settings"].choices),
        "account": runs[study_lib.FIRST]["account"],
        "totals": runs[study_lib.FIRST]["totals"],
        "stages": {
          stage: {key: run[key] for key in ("account", "totals")}
          for stage, run in runs.items()
          if stage
        },
      }
      for name, runs in cells.items()
    },
    "arms": [
      {
        "name": study_lib.arm_name(name, seed),
        "cell": name,
        "seed": seed,
        "runs": [
          _planned(stage, run, seed, search_paths)
          for stage, run in runs.items()
        ],
      }
      # Seed by seed, so that an interrupted study has complete repeats.
      for seed, name, runs in counted(
        [(seed, *cell) for seed in study.seeds for cell in cells.items()],
        "reading the arms' documents",
      )
    ],
  }


def _runs(study, cell, known, skipped, search_paths) -> dict:
  """Returns {stage: its settings and costs} for one cell.

  If a stage's task does not suit the architecture, adds the reason to `skipped`
  and leaves out the stage and those after it.
  """
  from t5x_lite.ablation import plan as planning
  from t5x_lite.ablation.study import FIRST

  runs = {}
  for stage, settings in study.runs(cell).items():
    name, after, budget = cell.name, FIRST, study.budget
    if stage != FIRST:
      name = f"{cell.name}, {stage}"
      after = study.stages[stage].after or FIRST
      budget = study.stages[stage].budget
      if after not in runs:
        continue
    run = build(settings, study.seeds[0], search_paths)
    reason = _mismatch(run)
    if reason is not None:
      skipped[name] = reason
      continue
    account = _account(name, run, known)
    runs[stage] = {
      "settings": settings,
      "after": after,
      "account": account,
      "totals": planning.totals(account, planning.steps(account, budget)),
    }
  return runs


class _Known(NamedTuple):
  """Caches the results of earlier cells.

  Attributes:
    accounts: costs of runs, by their settings.
    rates: FLOP/s of this device, by architecture.
  """

  accounts: dict
  rates: dict


def _account(name, run, known) -> dict:
  """Returns a run's costs, with the time of a step on this device."""
  from t5x_lite.ablation import plan as planning

  made_of = repr((run.model, run.train, run.optimizer, run.microbatches))
  if made_of not in known.accounts:
    try:
      account = planning.account(run)
    except ValueError as error:
      raise ValueError(f"cell {name}: {error}") from None
    architecture = account["architecture"]
    if architecture not in known.rates:
      known.rates[architecture] = planning.calibrate(run)
    rate = known.rates[architecture]
    account["step_seconds"] = account["flops_per_step"] / rate
    known.accounts[made_of] = account
  return known.accounts[made_of]


def _step_ratios(study, firsts, search_paths) -> dict:
  """Times the cells relative to the baseline, if there is one."""
  from t5x_lite.ablation import plan as planning

  if study.baseline not in firsts:
    return {}
  runs = {
    name: build(first["settings"], study.seeds[0], search_paths)
    for name, first in firsts.items()
  }
  return planning.step_ratios(runs, study.baseline)


def _planned(stage, run, seed, search_paths) -> dict:
  """Returns the plan of one run of an arm."""
  from t5x_lite.ablation import plan as planning

  settings, steps = run["settings"], run["totals"]["steps"]
  return {
    "stage": stage,
    "after": run["after"],
    "steps": steps,
    **study_file.settings(settings, steps, seed),
    "documents_sha256": planning.documents_sha256(
      build(settings, seed, search_paths)
    ),
    "imports": recorded_gin.foreign_imports(),
  }


def _as_dict(budget) -> dict:
  names = ("unit", "amount", "embeddings", "parameters_within")
  return {name: getattr(budget, name) for name in names}


def build(cell, seed, search_paths=()):
  """Builds the run of a cell."""
  from t5x_lite.training import run as run_lib

  bindings = [*cell.bindings, *study_file.seed_bindings(seed)]
  if not any(b.startswith("run.Run.total_steps") for b in bindings):
    bindings.append("run.Run.total_steps=1")
  try:
    config.load(cell.files, bindings, search_paths)
    return config.build(run_lib.Run)
  except ValueError as error:
    raise ValueError(f"cell {cell.name}: {error}") from None


def _mismatch(run) -> str | None:
  """Returns why a run's task does not suit its architecture, or None."""
  from t5x_lite.data.resolved_task import resolve

  task = resolve(run.train.task)
  try:
    run.model.row_format.check(task.features)
  except ValueError as error:
    return str(error)
  return None


def table(plan) -> str:
  """Returns a table of the cells' costs."""
  heads = ["cell", "parameters", "FLOPs", "source tokens", "loss tokens",
           "padding", "loss on", "steps", "memory", "time"]  # fmt: skip
  rows, seconds = [heads], 0.0
  for name, cell in plan["cells"].items():
    for stage, run in {"": cell, **cell["stages"]}.items():
      of, total = run["account"], run["totals"]
      seconds += total["seconds"] * len(plan["seeds"])
      rows.append([
        f"  {stage}" if stage else name,
        f"{of['parameters']:,}",
        describe.quantity(total["flops"]),
        describe.quantity(total["source_tokens"]),
        describe.quantity(total["loss_tokens"]),
        f"{of['padding_fraction']:.0%}",
        f"{of['loss_fraction']:.0%}",
        f"{total['steps']:,}",
        describe.memory(of["memory_bytes"]),
        f"{total['seconds'] / 60:.1f} min",
      ])  # fmt: skip
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = [
    "  ".join(
      value.ljust(width) if i == 0 else value.rjust(width)
      for i, (value, width) in enumerate(zip(row, widths, strict=True))
    )
    for row in rows
  ]
  budget = plan["budget"]
  return "\n".join([
    plan["question"],
    f"equal {budget['unit']}: {budget['amount']:g}; seeds "
    f"{', '.join(map(str, plan['seeds']))}; {len(plan['arms'])} arms, about "
    f"{seconds / 60:.0f} minutes of training on this device",
    *lines,
    *pairs(plan),
    *(
      f"a step of {name} takes {one['ratio']:.2f} times as long as one of "
      f"{plan['baseline']}"
      for name, one in plan["step_ratios"].items()
    ),
    *(f"skipped: {n}: {reason}" for n, reason in plan["skipped"].items()),
  ])  # fmt: skip


def pairs(plan) -> list[str]:
  """Compares parameters and FLOPs of an encoder-decoder with a decoder's.

  An encoder-decoder of 2N parameters should cost as much as a decoder of N.
  """
  lines, by_architecture = [], {}
  for cell in plan["cells"].values():
    by_architecture.setdefault(cell["account"]["architecture"], cell["account"])
  both = by_architecture.get("encoder_decoder")
  for name in ("causal", "prefix"):
    one = by_architecture.get(name)
    if both and one:
      size = (
        both["parameters_without_embeddings"]
        / one["parameters_without_embeddings"]
      )
      cost = (both["flops_per_step"] / both["positions_per_step"]) / (
        one["flops_per_step"] / one["positions_per_step"]
      )
      lines.append(
        f"encoder_decoder against {name}: {size:.2f} times the parameters "
        f"without embeddings, {cost:.2f} times the FLOPs of a token"
      )
  return lines
