"""Collects a study's results from the directories of its arms."""

import collections
import dataclasses
import itertools
import pathlib
import statistics as plain
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t5x_lite.ablation import conclusions, statistics, targets
from t5x_lite.ablation.measures import KINDS
from t5x_lite.files import json_text
from t5x_lite.training import metrics_log

_LOG_LINES = 12
_BITS = {"unit": "bits per byte", "better": "lower"}
_PERCENT = {"unit": "percent", "better": "higher"}


def gather(folder: pathlib.Path, plan: dict) -> dict[str, Any]:
  """Returns the contents of a report, as a dict that can be written as JSON.

  All of it is determined by the study and its seeds, except "step_ratios" and
  each cell's "timing".

  Args:
    folder: the study's directory.
    plan: the plan of `t5x_lite ablate`: the cost of each cell, and the arms.
  """
  arms = [_Arm(pathlib.Path(folder) / "arms", entry) for entry in plan["arms"]]
  done = collections.defaultdict(dict)
  for arm in arms:
    if arm.done:
      done[arm.cell][arm.seed] = arm
  cells = {
    name: {**cell, **_outcome(done[name], cell)}
    for name, cell in plan["cells"].items()
    if name in done
  }
  _add_targets(cells, done)
  measures = {
    name: one.meaning
    for of_cell in done.values()
    for arm in of_cell.values()
    for name, one in arm.measures.items()
  }
  scores = {
    name: _alike({cell: (name, cell) for cell in done}, done)
    for name in measures
  }
  found = {
    "question": plan["question"],
    "budget": plan["budget"],
    "stages": plan["stages"],
    "axes": plan["axes"],
    "seeds": plan["seeds"],
    "baseline": plan["baseline"],
    "step_ratios": plan["step_ratios"],
    "skipped": plan["skipped"],
    "paper": plan["paper"],
    "arms_total": len(arms),
    "arms_done": sum(arm.done for arm in arms),
    "missing": [arm.trouble() for arm in arms if not arm.done],
    "pairing": _pairing(arms),
    "measures": measures,
    "cells": cells,
    "comparisons": {
      name: statistics.compare(scores[name], _baseline(plan, scores[name]))
      for name in measures
    },
    "options": {
      name: _options_compared(plan, scores[name]) for name in measures
    },
    "contrasts": statistics.contrast(_contrasts(plan, done)),
    "minimum_detectable_effect": {
      name: statistics.minimum_detectable_effect(scores[name])
      for name in measures
    },
    "scaling": {
      name: _scaling(plan, cells, name)
      for name, meaning in measures.items()
      if meaning == _BITS
    },
    "provenance": _provenance(done),
  }
  found["reading"] = conclusions.paragraphs(found)
  return found


@dataclasses.dataclass(frozen=True)
class _Measure:
  """Holds one measure of an arm: a ratio of sums over documents or tasks.

  Attributes:
    meaning: its "unit", which direction is "better" and, for the measure of a
      single source, the "whole": the measure of all sources.
    of: identifies the data; arms are compared on the same data only.
    values: the numerators, per document or task.
    sizes: the denominators.
    form: the prompt format, if there is a choice.
  """

  meaning: Mapping[str, str]
  of: str
  values: Sequence[float]
  sizes: Sequence[float]
  form: str | None = None


def _measures(found, stage) -> dict[str, _Measure]:
  """Reads a measures.json: "continuation", or "continuation after STAGE".

  If there are several sources, adds "continuation of SOURCE" for each.
  """
  after = f" after {stage}" if stage else ""
  kinds = [kind for kind in KINDS if kind in found]
  sources = sorted(set(found["sources"])) if kinds else []
  measures = {
    f"{kind}{after}": _in_bits(found, kind, sources) for kind in kinds
  }
  if "probe" in found:
    sizes = [1.0] * len(found["probe"])
    measures[f"linear probe{after}"] = _Measure(
      _PERCENT, f"{len(sizes)} documents", found["probe"], sizes
    )
  for name, suite in found["suites"].items():
    tasks = suite["tasks"]
    measures[f"{name}{after}"] = _Measure(
      _PERCENT, " ".join(tasks), list(tasks.values()), [1.0] * len(tasks)
    )
  if len(sources) > 1:
    measures |= {
      f"{kind} of {source}{after}": _in_bits(
        found, kind, [source], whole=f"{kind}{after}"
      )
      for kind in kinds
      for source in sources
    }
  return measures


def _in_bits(found, kind, sources, **meaning) -> _Measure:
  """Returns the bits per byte on the documents of these sources."""
  documents = np.isin(found["sources"], sources)
  return _Measure(
    _BITS | meaning,
    found["documents_sha256"],
    np.array(found[kind]["bits"], float)[documents],
    np.array(found[kind]["bytes"], float)[documents],
    found[kind]["format"],
  )


class _Arm:
  """Reads an arm's directory; an arm with a null measure is not done."""

  def __init__(self, folder, entry):
    self.name, self.cell, self.seed = (
      entry[key] for key in ("name", "cell", "seed")
    )
    self.documents = {
      run["stage"]: run["documents_sha256"] for run in entry["runs"]
    }
    self.path = folder / self.name
    self.done, self.measures, self.samples = True, {}, []
    for run in entry["runs"]:
      path = self.path / run["stage"] / "measures.json"
      found = json_text.read(path, "step") if path.exists() else {"step": None}
      if found["step"] != run["steps"]:
        self.done = False
        return
      self.measures |= _measures(found, run["stage"])
      self.samples += found["samples"]
    self.done = not self._diverged

  @property
  def _diverged(self) -> list[str]:
    values = {n: np.array(m.values, float) for n, m in self.measures.items()}
    return [n for n, x in values.items() if not np.isfinite(x).all()]

  def records(self, kind) -> list[dict]:
    found = metrics_log.records(self.path / metrics_log.FILE).values()
    return [record for record in found if record["kind"] == kind]

  def trouble(self) -> dict[str, str]:
    if names := ", ".join(self._diverged):
      return {"name": self.name, "log": f"diverged: no number for {names}"}
    log = self.path / "arm.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return {
      "name": self.name,
      "log": "\n".join(lines[-_LOG_LINES:]) or "not started",
    }


def _outcome(arms, cell) -> dict[str, Any]:
  """Returns the results of one cell's arms."""
  per_step = cell["account"]
  first = next(iter(arms.values()))
  curves = collections.defaultdict(list)
  for arm in arms.values():
    for record in arm.records("train"):
      if record["loss"] is not None:
        curves[record["step"]].append(record["loss"])
  seconds = [
    r["step_seconds"] for a in arms.values() for r in a.records("train")
  ]
  return {
    "seeds_done": sorted(arms),
    "measures": {
      name: {
        "format": one.form,
        **statistics.summary(_of(arms.values(), name)),
      }
      for name, one in first.measures.items()
    },
    "own_loss": _own_loss(arms.values()),
    "curve": [
      {
        "step": step,
        "flops": step * per_step["flops_per_step"],
        "tokens": step * per_step["tokens_per_step"],
        "loss": float(np.mean(losses)),
      }
      for step, losses in sorted(curves.items())
    ],
    "samples": first.samples,
    "operative_gin": (first.path / "operative_config.gin").read_text(),
    "timing": {"step_seconds": plain.median(seconds)},
  }


def _own_loss(arms) -> dict[str, dict[str, Any]]:
  """Returns the held-out loss of the cell's own objective, in nats per token.

  If the objective is a mixture, each of its tasks is separate.
  """
  last = collections.defaultdict(list)
  for arm in arms:
    evaluations = arm.records("eval")
    for task, value in _losses(evaluations[-1] if evaluations else {}).items():
      last[task].append(value)
  return {
    task: {"mean": float(np.mean(values)), "by_seed": values}
    for task, values in last.items()
  }


def _add_targets(cells, done) -> None:
  """Adds the compute that each cell needed to reach a common target loss.

  Cells with the same held-out tasks share a target; a cell without another has
  none. Losses are means over seeds and tasks.
  """
  groups = collections.defaultdict(dict)
  for name, arms in done.items():
    cells[name]["to_target"] = None
    losses = collections.defaultdict(list)
    for arm in arms.values():
      for record in arm.records("eval"):
        if found := _losses(record):
          losses[record["step"]] += found.values()
    if losses:
      curve = [(step, float(np.mean(x))) for step, x in sorted(losses.items())]
      groups[tuple(cells[name]["own_loss"])][name] = curve
  for curves in groups.values():
    if len(curves) > 1:
      loss, steps = targets.steps_to_target(curves)
      for name, count in steps.items():
        account = cells[name]["account"]
        cells[name]["to_target"] = {
          "loss": loss,
          "steps": count,
          "flops": count * account["flops_per_step"],
          "tokens": count * account["tokens_per_step"],
        }


def _losses(record) -> dict[str, float]:
  """Returns {task: held-out loss} of an evaluation's record, if finite."""
  return {
    name.removesuffix("/loss"): value
    for name, value in record.items()
    if name.endswith("/loss") and value is not None
  }


def _of(arms, name) -> statistics.Scores:
  found = [arm.measures[name] for arm in arms]
  return statistics.Scores(
    np.array([one.values for one in found], float),
    np.array([one.sizes for one in found], float),
  )


def _alike(sides, done) -> dict[str, statistics.Scores]:
  """Returns scores that can be compared: of the same seeds and data.

  Args:
    sides: {name: (measure, cell)}; those without results are left out.
    done: {cell: {seed: arm}}.
  """
  arms = {name: done.get(cell, {}) for name, (_, cell) in sides.items()}
  having = {
    name: (arms[name], measure)
    for name, (measure, _) in sides.items()
    if arms[name] and all(measure in a.measures for a in arms[name].values())
  }
  if not having:
    return {}
  seeds = sorted(set.intersection(*(set(of) for of, _ in having.values())))
  first, measure = next(iter(having.values()))
  asked = next(iter(first.values())).measures[measure].of
  return {
    name: _of([of[seed] for seed in seeds], measure)
    for name, (of, measure) in having.items()
    if seeds and all(of[seed].measures[measure].of == asked for seed in seeds)
  }


def _contrasts(plan, done) -> dict[str, dict[str, statistics.Scores]]:
  """Returns the study's contrasts of which both sides have results."""
  pairs = {}
  for title, sides in plan["contrasts"].items():
    named = {f"{cell} ({measure})": (measure, cell) for measure, cell in sides}
    scores = _alike(named, done)
    if len(scores) == 2:
      pairs[title] = scores
  return pairs


def _baseline(plan, scores) -> str | None:
  return plan["baseline"] if plan["baseline"] in scores else None


def _options_compared(plan, scores) -> dict[str, list[dict[str, Any]]]:
  """Compares the options of each axis, if the grid has several axes."""
  if len(plan["axes"]) == 1:
    return {}
  choices = {name: cell["choices"] for name, cell in plan["cells"].items()}
  return {
    axis: statistics.compare_options(scores, choices, axis)
    for axis in plan["axes"]
  }


def _pairing(arms) -> dict[str, Any]:
  """Returns whether all arms read the same documents, by seed and stage."""
  digests = collections.defaultdict(set)
  for arm in arms:
    for stage, digest in arm.documents.items():
      digests[f"{arm.seed}, {stage}" if stage else str(arm.seed)].add(digest)
  return {
    seed: {"same": len(found) == 1, "sha256": sorted(found)}
    for seed, found in digests.items()
  }


def _scaling(plan, cells, kind) -> dict[str, Any]:
  """Fits a scaling law along the size axis, for each choice on other axes."""
  axis = plan["size_axis"]
  if axis is None:
    return {}
  groups = collections.defaultdict(list)
  for cell in cells.values():
    rest = [v for k, v in cell["choices"].items() if k != axis]
    groups["-".join(rest) or "all"].append(cell)
  found = {}
  for name, members in groups.items():
    points = list(
      itertools.chain.from_iterable(
        [
          (cell["totals"]["flops"], y)
          for y in cell["measures"][kind]["by_seed"]
        ]
        for cell in members
      )
    )
    law = statistics.scaling_law(*zip(*points, strict=True))
    if law is not None:
      found[name] = law | {"points": points}
  return found


def _provenance(done) -> dict[str, Any]:
  records = [
    json_text.read(arm.path / "run.json", "commit", "devices", "versions")
    for arms in done.values()
    for arm in arms.values()
  ]
  if not records:
    return {}
  return {
    "commits": sorted({str(record["commit"]) for record in records}),
    "devices": sorted({record["devices"] for record in records}),
    "versions": records[0]["versions"],
  }
