"""Stops training at the same step in all processes on Ctrl-C or SIGTERM."""

import os
import signal
from typing import Any

import jax


class Stop:
  """Turns the first Ctrl-C or SIGTERM into a request to stop."""

  def __init__(self):
    self.signal: int | None = None

  def __enter__(self) -> "Stop":
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
    return self

  def _note(self, number: int, frame: Any) -> None:
    del frame
    self.signal = number
    signal.signal(number, self._previous[number])
    if self._many_processes:  # JAX tells the others, and agrees on a step.
      os.kill(os.getpid(), signal.SIGTERM)

  def requested(self, step_number: int) -> bool:
    """Returns whether to stop, the same in all processes."""
    if not self._many_processes:
      return self.signal is not None
    from jax.experimental import multihost_utils

    if not multihost_utils.reached_preemption_sync_point(step_number):
      return False
    self.signal = self.signal or signal.SIGTERM
    return True

  def leave(self) -> None:
    """Exits with the signal's status, if there was one."""
    if self.signal is not None:
      raise SystemExit(128 + self.signal)

  def __exit__(self, *error) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)
