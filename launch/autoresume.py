"""Runs a command, and starts it again when it crashes or is preempted.

  python -m launch.autoresume [FLAGS] -- COMMAND...

For example, on every machine of a run:

  python -m launch.autoresume -- t5x_lite train --gin_file=... --model_dir=RUN

What follows the end of the command:

  status 0   done: ends
  2          a mistake in the command or its data, or divergence: ends
  130        Ctrl-C: ends
  75         stopped by SIGTERM or a notice of preemption, with a checkpoint:
             starts again at once
  any other  a crash, such as 69 and 134, another process of the run was lost,
             and 74, its data did not come:
             starts again after --backoff_seconds (5 s), then 10 s, 20 s ...
             5 min

It gives up after --max_failures crashes in a row without a newer checkpoint in
the command's --model_dir, and ends with the last one's status. A 75 without a
newer checkpoint counts as a crash. Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2
are passed on to the command; after the first three it is not started again. The
last two are ignored while no command is running.
"""

import argparse
import os
import signal
import subprocess
import sys
import time

from etils import epath

_ENDING = (0, 2, 128 + signal.SIGINT)
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LONGEST_WAIT_SECONDS = 300


def main(argv=None) -> int:
  """Runs the command until it ends or is given up; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m launch.autoresume",
    usage="%(prog)s [--max_failures=N] [--backoff_seconds=S] -- COMMAND...",
    description=__doc__.partition("\n\n")[2],
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--max_failures", type=int, default=5, metavar="N",
    help="crashes in a row without progress, after which it gives up "
    "(default: %(default)s)",
  )  # fmt: skip
  parser.add_argument(
    "--backoff_seconds", type=float, default=5, metavar="S",
    help="time before the first restart after progress; it doubles with each "
    "further crash (default: %(default)s)",
  )  # fmt: skip
  parser.add_argument("command", nargs="+", metavar="COMMAND")
  values = parser.parse_args(argv)
  if values.max_failures < 1:
    parser.error(f"--max_failures ({values.max_failures}) must be at least 1")
  if not 0 <= values.backoff_seconds <= _LONGEST_WAIT_SECONDS:
    parser.error(
      f"--backoff_seconds ({values.backoff_seconds:g}) must be from 0 to "
      f"{_LONGEST_WAIT_SECONDS}"
    )
  command = Command(values.command)
  try:
    return resume(command, values.max_failures, values.backoff_seconds)
  except OSError as error:
    _say(f"{values.command[0]}: {error.strerror}")
    return 2


def resume(command: "Command", max_failures: int, backoff_seconds: float):
  """Runs a command again and again; returns the last exit status."""
  failures, newest = 0, newest_step(command.model_dir)
  while True:
    status = command.run()
    if status in _ENDING or command.stopped:
      return status
    before, newest = newest, newest_step(command.model_dir, newest)
    progress = newest > before
    preempted = status == os.EX_TEMPFAIL
    what = f"{_name(status)}, newest checkpoint {max(newest, 0) or 'none'}"
    if preempted and (progress or command.model_dir is None):
      failures = 0
      _say(f"{what}: starts again")
      continue
    failures = 1 if progress else failures + 1
    if failures >= max_failures:
      _say(f"{what}: gives up after {failures} failures without progress")
      return status
    wait = min(backoff_seconds * 2 ** (failures - 1), _LONGEST_WAIT_SECONDS)
    _say(
      f"{what}: starts again in {wait:g} s (failure {failures} of "
      f"{max_failures} without progress)"
    )
    command.sleep(wait)
    if command.stopped:  # The same command goes on, unless by Ctrl-C.
      return 130 if command.stopped == signal.SIGINT else os.EX_TEMPFAIL


class Command:
  """Runs one command and passes signals on to it.

  Attributes:
    model_dir: its --model_dir; None if it has none.
    stopped: the last signal that asked to stop it; None if there was none.
  """

  def __init__(self, words: list[str]):
    self.model_dir = _flag(words, "model_dir")
    self.stopped: int | None = None
    self._words = words
    self._process: subprocess.Popen | None = None
    self._waiting: list[int] = []
    for number in (*_STOPPING, signal.SIGUSR1, signal.SIGUSR2):
      # What was ignored at the start stays ignored, as SIGHUP under nohup.
      if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, self._pass_on)

  def _pass_on(self, number, frame):
    del frame
    if number in _STOPPING:
      self.stopped = number
    if self._process is not None:
      self._process.send_signal(number)
    elif number in _STOPPING:
      # Others would end a command that has just begun: it has no handler yet.
      self._waiting.append(number)

  def run(self) -> int:
    """Runs the command once; returns its status as a shell does."""
    # A process group of its own: on Ctrl-C a terminal signals the whole group,
    # and training takes a second signal as an order to leave at once.
    self._process = subprocess.Popen(self._words, process_group=0)
    for number in self._waiting:
      self._process.send_signal(number)
    status = self._process.wait()
    self._process, self._waiting = None, []
    return status if status >= 0 else 128 - status

  def sleep(self, seconds: float):
    """Waits, until a signal asks to stop."""
    end = time.monotonic() + seconds
    while not self.stopped and (left := end - time.monotonic()) > 0:
      time.sleep(min(left, 0.2))


def newest_step(model_dir: str | None, known: int = -1) -> int:
  """Returns the newest checkpoint in a run's directory; -1 if it has none.

  Args:
    model_dir: the directory; None if the command has none.
    known: what to return, after a line, if the directory cannot be read.
  """
  if model_dir is None:
    return -1
  folder = epath.Path(model_dir).expanduser() / "checkpoints"
  try:
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
  except Exception as error:  # Of gs://, TensorFlow's, which are no OSErrors.
    reason = str(error).partition("\n")[0]
    _say(f"cannot read {folder}, which counts as no progress: {reason}")
    return known
  return max((int(name) for name in names if name.isdecimal()), default=-1)


def _flag(words: list[str], name: str) -> str | None:
  """Returns the value of the last --NAME=VALUE or --NAME VALUE."""
  found = None
  for i, word in enumerate(words):
    flag, equals, value = word.partition("=")
    if flag in (f"--{name}", f"-{name}"):
      found = value if equals else "".join(words[i + 1 : i + 2])
  return found


def _name(status: int) -> str:
  if status == os.EX_TEMPFAIL:
    return "preempted (status 75)"
  try:
    return f"crashed (status {status}, {signal.Signals(status - 128).name})"
  except ValueError:
    return f"crashed (status {status})"


def _say(line):
  print(f"autoresume: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
  sys.exit(main())
