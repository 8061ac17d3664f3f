"""Turns a study into arms, and runs each as a process of its own.

DIR/study.json          the plan: cells, what each costs, arms
DIR/arms/NAME/          the run: checkpoints, metrics.jsonl, measures.json
DIR/arms/NAME/arm.log   what its commands printed
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import launch
from launch import config, describe, measure

PLAN = "study.json"
_POLL_SECONDS = 0.2


def make_plan(study, text, search_paths=()) -> dict:
  """Accounts for every cell of a study and shares the budget out.

  Args:
    study: a study.Study.
    text: the gin configuration that it was built from.
    search_paths: further folders with gin files.

  Raises:
    ValueError: a cell that cannot be, for another reason than that its
      architecture and objective do not go together.
  """
  from t5x_lite.ablation import plan as planning
  from t5x_lite.ablation import study as study_lib

  accounts, skipped, cells, rates = {}, {}, {}, {}
  for cell in study.cells():
    reason = cell.skipped
    if reason is None:
      run = _build(cell, study.seeds[0], search_paths)
      reason = _mismatch(run)
    if reason is not None:
      skipped[cell.name] = reason
      continue
    try:
      account = planning.account(run)
    except ValueError as error:
      raise ValueError(f"cell {cell.name}: {error}") from None
    architecture = account["architecture"]
    if architecture not in rates:
      rates[architecture] = planning.calibrate(run)
    account["step_seconds"] = account["flops_per_step"] / rates[architecture]
    accounts[cell.name], cells[cell.name] = account, cell
  if not accounts:
    raise ValueError(f"every cell of the study is left out: {skipped}")
  planning.check_parameters(accounts, study.budget)
  steps = {n: planning.steps(a, study.budget) for n, a in accounts.items()}
  return {
    "digest": _digest(text),
    "gin": text,
    "question": study.question,
    "budget": {
      name: getattr(study.budget, name)
      for name in ("equal", "amount", "embeddings", "parameters_within")
    },
    "axes": {axis: list(options) for axis, options in study.grid.items()},
    "seeds": list(study.seeds),
    "baseline": study.baseline,
    "size_axis": study.size_axis,
    "paper": {"title": study.paper_title, "values": dict(study.paper)},
    "skipped": skipped,
    "cells": {
      name: {
        "choices": dict(cells[name].choices),
        "account": account,
        "totals": planning.totals(account, steps[name]),
      }
      for name, account in accounts.items()
    },
    "arms": [
      {
        "name": study_lib.arm_name(name, seed),
        "cell": name,
        "seed": seed,
        "steps": steps[name],
        "files": cells[name].files,
        "bindings": [
          *cells[name].bindings,
          f"run.Run.total_steps={steps[name]}",
          *_seed_bindings(seed),
        ],
        "search_paths": list(search_paths),
        "documents_sha256": planning.documents_sha256(
          _build(cells[name], seed, search_paths)
        ),
      }
      # Seed by seed, so that a study that is cut short has whole repeats.
      for seed in study.seeds
      for name in accounts
    ],
  }


def _seed_bindings(seed) -> list[str]:
  """Returns what pairs arms: one seed, one order of the documents."""
  return [
    f"run.Run.seed={seed}", f"run.Data.seed={seed}", "run.Data.order='study'",
  ]  # fmt: skip


def _build(cell, seed, search_paths):
  from t5x_lite import run as run_lib

  bindings = [*cell.bindings, *_seed_bindings(seed)]
  if not any(b.startswith("run.Run.total_steps") for b in bindings):
    bindings.append("run.Run.total_steps=1")
  try:
    config.load(cell.files, bindings, search_paths)
    return config.build(run_lib.Run)
  except ValueError as error:
    raise ValueError(f"cell {cell.name}: {error}") from None


def _mismatch(run) -> str | None:
  """Says why a run's task and architecture do not go together, or None."""
  from t5x_lite import data, features

  names = data.feature_names(data.get_task(run.train.task))
  try:
    features.check(names, run.model.architecture)
  except ValueError as error:
    return str(error)
  return None


def _digest(text) -> str:
  return hashlib.sha256(text.encode()).hexdigest()


def write_plan(folder, plan):
  """Writes a plan where `find_plan` finds it."""
  folder.mkdir(parents=True, exist_ok=True)
  partial = folder / f"{PLAN}.partial"
  partial.write_text(json.dumps(plan, indent=1) + "\n")
  partial.rename(folder / PLAN)


def find_plan(folder, text) -> dict | None:
  """Returns the plan of a directory, or None where there is none.

  Raises:
    ValueError: it is of another study.
  """
  path = folder / PLAN
  if not path.exists():
    return None
  plan = json.loads(path.read_text())
  if plan["digest"] != _digest(text):
    raise ValueError(
      f"--output={folder} holds another study, or an earlier form of this one: "
      "give another --output, or delete that one"
    )
  return plan


def table(plan) -> str:
  """Returns what the cells cost, side by side."""
  heads = ["cell", "parameters", "FLOPs", "source tokens", "loss tokens",
           "padding", "loss on", "steps", "memory", "time"]  # fmt: skip
  rows, seconds = [heads], 0.0
  for name, cell in plan["cells"].items():
    of, total = cell["account"], cell["totals"]
    seconds += total["seconds"] * len(plan["seeds"])
    rows.append([
      name,
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
    f"equal {budget['equal']}: {budget['amount']:g}; seeds "
    f"{', '.join(map(str, plan['seeds']))}; {len(plan['arms'])} arms, about "
    f"{seconds / 60:.0f} minutes of training on this device",
    *lines,
    *pairs(plan),
    *(f"left out: {n}: {reason}" for n, reason in plan["skipped"].items()),
  ])  # fmt: skip


def pairs(plan) -> list[str]:
  """Checks that an encoder-decoder of 2N costs what a decoder of N does."""
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


class Arm:
  """One arm's directory and commands."""

  def __init__(self, folder, plan, entry):
    self.name, self.steps = entry["name"], entry["steps"]
    self.path = pathlib.Path(folder) / "arms" / self.name
    train = [
      "train", f"--model_dir={self.path}",
      *(f"--gin_file={file}" for file in entry["files"]),
      *(f"--gin.{binding}" for binding in entry["bindings"]),
    ]  # fmt: skip
    if entry["search_paths"]:
      train.append(f"--gin_search_paths={','.join(entry['search_paths'])}")
    self._commands = [
      [sys.executable, "-m", "launch.main", *words]
      for words in (train, ["measure", f"--model_dir={self.path}"])
    ]

  @property
  def done(self) -> bool:
    """Tells whether it is trained and measured."""
    path = self.path / measure.FILE
    return path.exists() and json.loads(path.read_text())["step"] == self.steps

  @property
  def log(self) -> pathlib.Path:
    """Returns the file of what its commands print."""
    return self.path / "arm.log"

  def shell_line(self) -> str:
    """Returns the commands as one line of shell."""
    return " && ".join(shlex.join(command) for command in self._commands)

  def start(self):
    """Starts training; `poll` starts measuring after it.

    Raises:
      ValueError: another process runs this arm. (The lock is inherited: it is
        held as long as a command runs, even if who started it was killed.)
    """
    self.path.mkdir(parents=True, exist_ok=True)
    self._lock = (self.path / "lock").open("w")
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      self._lock.close()
      raise ValueError(f"arm {self.name} is run by another process") from None
    self._left = list(self._commands)
    self._start_next()

  def _start_next(self):
    root = str(pathlib.Path(launch.__file__).resolve().parents[1])
    known = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join(filter(None, [root, known]))
    with self.log.open("a") as log:
      self._process = subprocess.Popen(
        self._left.pop(0),
        stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        pass_fds=[self._lock.fileno()], env=os.environ | {"PYTHONPATH": paths},
        start_new_session=True,
      )  # fmt: skip

  def poll(self) -> int | None:
    """Returns the exit status, or None while it runs."""
    status = self._process.poll()
    if status == 0 and self._left:
      self._start_next()
      return None
    if status is not None:
      self._lock.close()
    return status

  def stop(self):
    """Asks for a checkpoint and an end, and waits for it."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGTERM)
    self._process.wait()
    self._lock.close()
    # Until its children are gone too, who hold the lock as long as they run.
    with (self.path / "lock").open("w") as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)


def run_all(arms, jobs, say) -> list[str]:
  """Runs the arms that are not done, so many at a time.

  An arm that fails is reported, with the end of its log, and the others go on.

  Returns:
    The names of those that failed.
  """
  waiting = [arm for arm in arms if not arm.done]
  if len(waiting) < len(arms):
    say(f"{len(arms) - len(waiting)} arms are done already")
  running, failed, count = {}, [], len(arms) - len(waiting)
  previous = signal.signal(signal.SIGTERM, _interrupt)
  try:
    while waiting or running:
      while waiting and len(running) < jobs:
        arm = waiting.pop(0)
        try:
          arm.start()
          running[arm] = time.monotonic()
        except ValueError as error:
          failed.append(arm.name)
          say(str(error))
      statuses = {arm: arm.poll() for arm in running}
      for arm in [arm for arm in running if statuses[arm] is not None]:
        seconds = time.monotonic() - running.pop(arm)
        count += 1
        if statuses[arm] == 0 and arm.done:
          say(f"{count}/{len(arms)} {arm.name}: {seconds:.0f} s")
        else:
          failed.append(arm.name)
          last = arm.log.read_text(errors="replace").strip().splitlines()[-1:]
          say(f"{count}/{len(arms)} {arm.name} FAILED, see {arm.log}: "
              f"{''.join(last)}")  # fmt: skip
      time.sleep(_POLL_SECONDS)
  finally:
    for arm in running:
      arm.stop()
    signal.signal(signal.SIGTERM, previous)
  return failed


def _interrupt(number, frame):
  raise SystemExit(128 + number)
