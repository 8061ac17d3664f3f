"""Ends a run whose data does not come, and says where it waits."""

import faulthandler
import functools
import os
import sys
import threading
import time
import weakref
from typing import Any

# EX_IOERR of sysexits.h. launch.autoresume starts the command again.
EXIT_STATUS = 74


class Watchdog:
  """Watches over blocks that should not take long.

      watchdog = Watchdog("no batch", seconds=1800.0)
      with watchdog:
        batch = next(batches)

  If a block takes longer, all threads' stacks are printed, and the process ends
  with `EXIT_STATUS`: a read that hangs cannot be interrupted.
  """

  def __init__(self, what: str, *, seconds: float):
    """Starts the thread that watches.

    Args:
      what: what has happened if a block takes too long, for the message.
      seconds: the longest time of a block.
    """
    self._what, self._seconds = what, seconds
    self._begun: float | None = None
    # The thread ends with the watchdog.
    watch = functools.partial(_watch, weakref.ref(self), seconds)
    threading.Thread(target=watch, daemon=True).start()

  def __enter__(self) -> None:
    self._begun = time.monotonic()

  def __exit__(self, *error: Any) -> None:
    self._begun = None

  def check(self) -> None:
    """Ends the process if a block takes too long."""
    begun = self._begun
    if begun is None or time.monotonic() - begun <= self._seconds:
      return
    faulthandler.dump_traceback(all_threads=True)
    print(
      f"t5x_lite: {self._what} in {self._seconds:g} s "
      "(Run.batch_timeout_seconds): the stacks above say where each thread "
      f"waits; exiting with status {EXIT_STATUS}",
      file=sys.stderr,
      flush=True,
    )
    os._exit(EXIT_STATUS)


def _watch(reference: weakref.ref, seconds: float) -> None:
  while (watchdog := reference()) is not None:
    watchdog.check()
    del watchdog
    time.sleep(min(seconds / 4, 5.0))
