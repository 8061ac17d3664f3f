"""Stops training at the same step in all processes on Ctrl-C or SIGTERM.

The exit status says what to do next: 130 after Ctrl-C in any of the processes,
and after SIGTERM 75, EX_TEMPFAIL of sysexits.h: the same command goes on.
"""

import os
import signal
from typing import Any

import jax
import numpy as np

from t5x_lite.devices import starting
from t5x_lite.training import preemption


class Stop:
  """Turns the first Ctrl-C or SIGTERM into a request to stop.

  On Google Cloud, the notice that this machine will be taken away counts as
  SIGTERM.
  """

  def __init__(self):
    self.signal: int | None = None

  def __enter__(self) -> "Stop":
    late = starting.finish()
    # With several processes, JAX handles SIGTERM, so that all stop at one step.
    self._many_processes = jax.process_count() > 1
    signals = (
      (signal.SIGINT,)
      if self._many_processes
      else (signal.SIGINT, signal.SIGTERM)
    )
    # A shell starts background jobs with SIGINT ignored: leave it so, as Ctrl-C
    # is meant for the program in the foreground.
    caught = (s for s in signals if signal.getsignal(s) is not signal.SIG_IGN)
    self._previous = {s: signal.signal(s, self._note) for s in caught}
    self._watch = preemption.Watch(self._preempted)
    for number in late:
      os.kill(os.getpid(), number)
    return self

  def _note(self, number: int, frame: Any) -> None:
    del frame
    self.signal = number
    signal.signal(number, self._previous[number])
    if self._many_processes:  # JAX tells the others, and agrees on a step.
      os.kill(os.getpid(), signal.SIGTERM)

  def _preempted(self) -> None:
    if self._many_processes:
      os.kill(os.getpid(), signal.SIGTERM)
    elif self.signal is None:
      # No signal: the one that follows at the machine's end is the first.
      self.signal = signal.SIGTERM

  def requested(self, step_number: int) -> bool:
    """Returns whether to stop, the same in all processes."""
    if not self._many_processes:
      return self.signal is not None
    from jax.experimental import multihost_utils

    if not multihost_utils.reached_preemption_sync_point(step_number):
      return False
    noted = np.int32(self.signal or signal.SIGTERM)
    # Ctrl-C in one process is meant for all: it has the lower number.
    self.signal = int(multihost_utils.process_allgather(noted).min())
    return True

  def leave(self) -> None:
    """Exits with the signal's status, if there was one."""
    if self.signal == signal.SIGINT:
      raise SystemExit(128 + signal.SIGINT)
    if self.signal is not None:
      raise SystemExit(os.EX_TEMPFAIL)

  def __exit__(self, *error) -> None:
    self._watch.cancel()
    for number, handler in self._previous.items():
      signal.signal(number, handler)
