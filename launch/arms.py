"""Runs each arm of a study as a separate process.

DIR/arms/NAME/          the first run: checkpoints, metrics.jsonl, measures.json
DIR/arms/NAME/STAGE/    the run of a later stage
DIR/arms/NAME/arm.log   the output of all its commands
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import launch
from launch import measure
from t5x_lite.files import json_text, lock
from t5x_lite.files.slow import announced

_POLL_SECONDS = 0.2


class Arm:
  """Runs one arm's commands in its directory."""

  def __init__(self, folder, entry, search_paths=()):
    """Reads a study's plan of one arm.

    Args:
      folder: the study's directory.
      entry: the arm in the plan.
      search_paths: further folders with gin files and modules.
    """
    self.name = entry["name"]
    self.path = pathlib.Path(folder) / "arms" / self.name
    self._runs = [_Run(self.path, run, search_paths) for run in entry["runs"]]

  @property
  def done(self) -> bool:
    """Returns whether all its runs are trained and measured."""
    return all(run.done for run in self._runs)

  @property
  def log(self) -> pathlib.Path:
    """Returns the file with its commands' output."""
    return self.path / "arm.log"

  def start(self):
    """Starts the first command; `poll` starts the next ones.

    Raises:
      ValueError: another process is running this arm. (Commands inherit the
        lock, so it is held while one runs, even if its parent was killed.)
    """
    self.path.mkdir(parents=True, exist_ok=True)
    try:
      # None where there is no flock: `train` holds its directory by a lease.
      self._lock = lock.flocked(self.path / "lock")
    except lock.Held:
      raise ValueError(
        f"arm {self.name} is already being run by another process"
      ) from None
    self._left = [
      words for run in self._runs if not run.done for words in run.commands
    ]
    self._start_next()

  def _start_next(self):
    root = str(pathlib.Path(launch.__file__).resolve().parents[1])
    known = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join(filter(None, [root, known]))
    with self.log.open("a") as log:
      self._process = subprocess.Popen(
        self._left.pop(0),
        stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        pass_fds=[self._lock.fileno()] if self._lock else [],
        env=os.environ | {"PYTHONPATH": paths},
        start_new_session=True,
      )  # fmt: skip

  def poll(self) -> int | None:
    """Returns the exit status, or None while the arm is running."""
    status = self._process.poll()
    if status == 0 and self._left:
      self._start_next()
      return None
    if status is not None:
      self._unlock()
    return status

  def stop(self):
    """Sends SIGTERM, which saves a checkpoint, and waits for the exit."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGTERM)
    self._process.wait()
    if self._lock:
      self._unlock()
      # Also wait for its child processes, which hold the lock while they run.
      self._lock = lock.flocked(self.path / "lock", wait=True)
      self._unlock()

  def _unlock(self):
    if self._lock:
      self._lock.close()


class _Run:
  """Holds the commands that train and measure one run of an arm."""

  def __init__(self, arm_path, run, search_paths):
    self._path, self._steps = arm_path / run["stage"], run["steps"]
    bindings = list(run["bindings"])
    if run["stage"]:
      bindings += [
        "run.Run.warm_start=@checkpoints.WarmStart()",
        f"checkpoints.WarmStart.path={str(arm_path / run['after'])!r}",
      ]
    train = [
      "train", f"--model_dir={self._path}",
      *(f"--gin_file={file}" for file in run["files"]),
      *(f"--gin.{binding}" for binding in bindings),
    ]  # fmt: skip
    # What `train` has just written for it, from the study's own gin files.
    measure = ["measure", f"--model_dir={self._path}"]
    if run["imports"]:
      measure.append(f"--allow_import={','.join(run['imports'])}")
    if search_paths:
      for words in (train, measure):
        words.append(f"--gin_search_paths={','.join(search_paths)}")
    self.commands = [
      [sys.executable, "-m", "launch.main", *words]
      for words in (train, measure)
    ]

  @property
  def done(self) -> bool:
    path = self._path / measure.FILE
    return path.exists() and json_text.read(path, "step")["step"] == self._steps


def run_all(arms, jobs, say) -> list[str]:
  """Runs the arms that are not done, `jobs` of them in parallel.

  A failed arm is reported with the last line of its log; the others continue.

  Returns:
    The names of the arms that failed.
  """
  waiting = [arm for arm in arms if not arm.done]
  if len(waiting) < len(arms):
    say(f"{len(arms) - len(waiting)} arms are already done")
  running, failed, count = {}, [], len(arms) - len(waiting)

  def progress() -> str:
    names = ", ".join(arm.name for arm in list(running))
    return f"{count} of {len(arms)} done, now {names}"

  previous = signal.signal(signal.SIGTERM, _interrupt)
  try:
    with announced("running the arms", detail=progress):
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
        if os.EX_TEMPFAIL in statuses.values():
          say("an arm was told to stop, as this machine is taken away: the "
              "same command goes on")  # fmt: skip
          raise SystemExit(os.EX_TEMPFAIL)
        for arm in [arm for arm in running if statuses[arm] is not None]:
          seconds = time.monotonic() - running.pop(arm)
          count += 1
          if statuses[arm] == 0 and arm.done:
            result = f": {seconds:.0f} s"
          else:
            failed.append(arm.name)
            result = f" FAILED, see {arm.log}: {_last_line(arm.log)}"
          say(f"{count}/{len(arms)} {arm.name}{result}")
        time.sleep(_POLL_SECONDS)
  finally:
    for arm in running:
      arm.stop()
    signal.signal(signal.SIGTERM, previous)
  return failed


def _last_line(log) -> str:
  return "".join(log.read_text(errors="replace").strip().splitlines()[-1:])


def _interrupt(number, frame):
  del number, frame
  # As training itself: the same command goes on.
  raise SystemExit(os.EX_TEMPFAIL)
