"""Writes a run's configuration and provenance, and checks them on resume.

RUN/config.gin            the whole configuration in one file
RUN/operative_config.gin  the values that were used, defaults included
RUN/run.json              settings, versions, commit, devices, starts
RUN/.lock                 held by the process that trains
RUN/checkpoints, metrics.jsonl, ...: see t5x_lite/training/train.py
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from etils import epath

import t5x_lite
from launch import config
from t5x_lite.files import disk, json_text, lock, trees

CONFIG = "config.gin"
OPERATIVE = "operative_config.gin"
RECORD = "run.json"

# Settings that may change on resume: they do not affect the updates.
_MAY_CHANGE = (
  "total_steps", "microbatches", "layout", "eval", "keep", "sampler",
  "log_every", "eval_every", "sample_every", "checkpoint_every", "constraints",
  "max_skipped_steps", "loss_spike", "sdc_check_every", "trackers",
  "batch_timeout_seconds",
)  # fmt: skip
# How the model's numbers are computed, not which: by the last part of the path.
_MAY_CHANGE_IN_MODEL = ("kernel", "remat")
_PACKAGES = (
  "flax", "gin-config", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint",
  "sentencepiece", "seqio", "tensorflow", "tensorflow-text",
)  # fmt: skip


def _may_change(path: str) -> bool:
  """Tells whether a run may resume with another value of a setting."""
  parts = path.split(".")
  return parts[0] in _MAY_CHANGE or (
    parts[0] == "model" and parts[-1] in _MAY_CHANGE_IN_MODEL
  )


def flatten(value, path="") -> dict[str, object]:
  """Flattens a tree of settings to {path: plain value}.

  {"model.transformer.encoder.layer.mlp": "Gated",
   "model.transformer.encoder.layer.mlp.hidden": 2048, ...}
  """
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    leaves = {path: type(value).__name__} if path else {}
    for field in dataclasses.fields(value):
      if field.init and field.name not in ("parent", "name"):
        below = f"{path}.{field.name}" if path else field.name
        leaves |= flatten(getattr(value, field.name), below)
    return leaves
  if isinstance(value, Mapping):
    items = value.items()
  elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
    items = enumerate(value)
  elif isinstance(value, float) and not math.isfinite(value):
    return {path: str(value)}  # JSON has no infinity.
  elif value is None or isinstance(value, bool | int | float | str):
    return {path: value}
  else:
    return {path: getattr(value, "__name__", None) or str(value)}
  leaves = {path: f"{len(value)} entries"}
  for key, entry in items:
    leaves |= flatten(entry, f"{path}.{key}")
  return leaves


def differences(old: Mapping, new: Mapping) -> dict[str, str]:
  """Returns {path: "OLD there, NEW here"} for the settings that differ.

  Paths that only one side has are ignored: they are parameters that a version
  of the code added. A change of class shows as a different class name.
  """
  return {
    path: f"{old[path]!r} there, {new[path]!r} here"
    for path in new
    if path in old and old[path] != new[path]
  }


class RunDirectory:
  """Manages a run's directory, in each process of the run.

  Create it before the processes connect: paths that are missing then are
  counted as made by this run, whichever process makes them.
  """

  def __init__(self, path):
    self.path = epath.Path(path)
    self._made = disk.missing_folders(self.path)

  def check(self, run) -> list[str]:
    """Checks that a run may start or resume in this directory.

    Args:
      run: the `Run` about to start.

    Returns:
      The changes to the existing run's settings, one line each.

    Raises:
      ValueError: the directory has a run of another configuration, or cannot be
        written to.
    """
    changed = []
    record = self.path / RECORD
    if record.exists():
      there = _read(record)["configuration"]
      found = differences(there, _as_json(flatten(run)))
      free = {path: d for path, d in found.items() if _may_change(path)}
      changed = [f"{path}: {difference}" for path, difference in free.items()]
      refused = [f"{p} is {d}" for p, d in found.items() if p not in free]
      if refused:
        raise ValueError(
          f"--model_dir={self.path} has a run of another configuration: "
          f"{trees.listed(refused, 4, '; ')}; give another --model_dir, or "
          "delete that one"
        )
    try:
      disk.try_writing(self.path)
    except OSError as error:
      raise ValueError(
        f"--model_dir={self.path} cannot be written to: "
        f"{error.strerror or error}"
      ) from None
    return changed

  def start(self, run, argv):
    """Writes the three files when the run starts; called by one process."""
    record = self.path / RECORD
    before = _read(record) if record.exists() else {}
    if not before:
      names = (CONFIG, OPERATIVE, RECORD, lock.NAME, "checkpoints")
      self._made += [self.path / name for name in names]
    content = provenance(argv)
    content["configuration"] = flatten(run)
    content["starts"] = [
      *before.get("starts", ()),
      {key: content[key] for key in ("time", "argv", "commit")},
    ]
    # Written atomically: other processes may be reading the record.
    config.write(self.path / CONFIG)
    disk.write_text(self.path / OPERATIVE, config.operative_text())
    disk.write_text(record, json_text.dumps(content, indent=2) + "\n")

  @contextlib.contextmanager
  def locked(self):
    """Keeps other processes from training in the directory meanwhile.

    Raises:
      ValueError: another process is training in it.
    """
    try:
      with lock.exclusive(self.path / lock.NAME):
        yield
    except lock.Held as other:
      raise ValueError(
        f"--model_dir={self.path} is being trained by {other.holder}: wait for "
        "its end, or give another --model_dir"
      ) from None

  def undo(self):
    """Removes the files of this start if the run then failed to begin."""
    if not self.path.exists():
      return
    ours = {path.name for path in self._made}
    for entry in self.path.iterdir():
      if entry.name not in ours or entry.is_dir() and any(entry.iterdir()):
        return  # The run did begin.
    for path in sorted(self._made, key=str, reverse=True):
      if path.is_file():
        path.unlink()
      elif path.is_dir() and not any(path.iterdir()):
        path.rmdir()


def _read(record) -> dict:
  return json_text.read(
    record,
    "configuration",
    remedy="restore it from a copy, or delete it: train writes it anew, but "
    "cannot tell whether the configuration has changed",
  )


def _as_json(leaves):
  return json.loads(json_text.dumps(leaves))


def provenance(argv) -> dict:
  """Returns what a result depends on apart from its configuration."""
  import jax

  devices = jax.devices()
  return {
    "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    "argv": list(argv),
    "commit": commit(),
    "versions": versions(),
    "platform": platform.platform(),
    "devices": f"{len(devices)} x {devices[0].device_kind}",
    "processes": jax.process_count(),
  }


def facts(run) -> dict[str, str]:
  """Returns what the processes of a run must have in common, by name."""
  found = {"commit": commit()} | {
    f"version of {k}": v for k, v in versions().items()
  }
  found |= {f"Run.{path}": value for path, value in flatten(run).items()}
  return {name: str(value) for name, value in found.items()}


def versions() -> dict[str, str]:
  """Returns {name: version} of Python and the packages that matter."""
  found = {
    "t5x_lite": t5x_lite.__version__,
    "python": platform.python_version(),
  }
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def commit() -> str | None:
  """Returns the checkout's commit, with "+changes" if files differ."""
  folder = pathlib.Path(t5x_lite.__file__).resolve().parent.parent
  if not (folder / ".git").exists():
    return None

  def git(*words):
    return subprocess.run(
      ["git", "-C", folder, *words],
      capture_output=True, text=True, check=True, timeout=20,
    ).stdout.strip()  # fmt: skip

  try:
    head = git("rev-parse", "HEAD")
    return head + ("+changes" if git("status", "--porcelain", "-uno") else "")
  except (OSError, subprocess.SubprocessError):
    return None


def say(line):
  """Prints a message for the user to stderr."""
  print(f"t5x_lite: {line}", file=sys.stderr, flush=True)
