"""Gathers what the arms of a study left in their directories."""

import collections
import itertools
import json
import pathlib
import statistics as plain
from typing import Any

import numpy as np

from t5x_lite.ablation import reading, statistics

KINDS = ("continuation", "infilling")
_LOG_LINES = 12


def gather(folder: Any, plan: dict) -> dict[str, Any]:
  """Returns all that a report says, as a dict that JSON can hold.

  Only "timing", in each cell, depends on more than the study and its seeds.

  Args:
    folder: the study's directory.
    plan: of `t5x_lite ablate`: what each cell costs, and the arms.
  """
  arms = [_Arm(pathlib.Path(folder) / "arms", entry) for entry in plan["arms"]]
  done = collections.defaultdict(dict)
  for arm in arms:
    if arm.measures is not None:
      done[arm.cell][arm.seed] = arm
  cells = {
    name: {**cell, **_outcome(done[name], cell)}
    for name, cell in plan["cells"].items()
    if name in done
  }
  scores = {kind: _scores(done, kind) for kind in KINDS}
  found = {
    "question": plan["question"],
    "budget": plan["budget"],
    "axes": plan["axes"],
    "seeds": plan["seeds"],
    "baseline": plan["baseline"],
    "skipped": plan["skipped"],
    "paper": plan["paper"],
    "arms_total": len(arms),
    "arms_done": sum(arm.measures is not None for arm in arms),
    "missing": [arm.trouble() for arm in arms if arm.measures is None],
    "pairing": _pairing(arms),
    "cells": cells,
    "comparisons": {
      kind: statistics.compare(scores[kind], _baseline(plan, scores[kind]))
      for kind in KINDS
    },
    "smallest_visible": {
      kind: statistics.smallest_visible(scores[kind]) for kind in KINDS
    },
    "scaling": {kind: _scaling(plan, cells, kind) for kind in KINDS},
    "provenance": _provenance(done),
  }
  found["reading"] = reading.sentences(found)
  return found


class _Arm:
  """What one arm's directory holds."""

  def __init__(self, folder, entry):
    self.name, self.cell, self.seed = (
      entry[key] for key in ("name", "cell", "seed")
    )
    self.documents_sha256 = entry["documents_sha256"]
    self.path = folder / self.name
    self.measures = None
    path = self.path / "measures.json"
    if path.exists():
      found = json.loads(path.read_text())
      self.measures = found if found["step"] == entry["steps"] else None

  def records(self, kind) -> list[dict]:
    lines = (self.path / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]

  def trouble(self) -> dict[str, str]:
    log = self.path / "arm.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return {
      "name": self.name,
      "log": "\n".join(lines[-_LOG_LINES:]) or "not started",
    }


def _outcome(arms, cell) -> dict[str, Any]:
  """Returns what one cell's arms came to."""
  per_step = cell["account"]
  first = next(iter(arms.values()))
  curves = collections.defaultdict(list)
  for arm in arms.values():
    for record in arm.records("train"):
      curves[record["step"]].append(record["loss"])
  seconds = [
    r["step_seconds"] for a in arms.values() for r in a.records("train")
  ]
  return {
    "seeds_done": sorted(arms),
    "measures": {
      kind: {
        "format": first.measures[kind]["format"],
        **statistics.summary(_of(arms.values(), kind)),
      }
      for kind in KINDS
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
    "samples": first.measures["samples"],
    "operative_gin": (first.path / "operative_config.gin").read_text(),
    "timing": {"step_seconds": plain.median(seconds)},
  }


def _own_loss(arms) -> dict[str, Any] | None:
  """Returns the held-out loss of the objective itself, nats per token."""
  last = []
  for arm in arms:
    evaluations = arm.records("eval")
    losses = [
      value
      for name, value in (evaluations[-1] if evaluations else {}).items()
      if name.endswith("/loss")
    ]
    last += losses[:1]
  if not last:
    return None
  return {"mean": float(np.mean(last)), "by_seed": last}


def _of(arms, kind) -> statistics.Scores:
  found = [arm.measures[kind] for arm in arms]
  return statistics.Scores(
    np.array([one["bits"] for one in found], float),
    np.array([one["bytes"] for one in found], float),
  )


def _scores(done, kind) -> dict[str, statistics.Scores]:
  """Returns what can be compared: the same seeds on the same held-out texts."""
  done = {name: arms for name, arms in done.items() if arms}
  if not done:
    return {}
  seeds = sorted(set.intersection(*(set(arms) for arms in done.values())))
  texts = next(iter(next(iter(done.values())).values()))
  digest = texts.measures["documents_sha256"]
  return {
    name: _of([arms[seed] for seed in seeds], kind)
    for name, arms in done.items()
    if seeds and all(
      arms[seed].measures["documents_sha256"] == digest for seed in seeds
    )
  }  # fmt: skip


def _baseline(plan, scores) -> str | None:
  return plan["baseline"] if plan["baseline"] in scores else None


def _pairing(arms) -> dict[str, Any]:
  """Says of each seed whether its arms read the same documents in order."""
  digests = collections.defaultdict(set)
  for arm in arms:
    digests[str(arm.seed)].add(arm.documents_sha256)
  return {
    seed: {"same": len(found) == 1, "sha256": sorted(found)}
    for seed, found in digests.items()
  }


def _scaling(plan, cells, kind) -> dict[str, Any]:
  """Fits a law along the axis of sizes, apart for each other choice."""
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
    json.loads((arm.path / "run.json").read_text())
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
