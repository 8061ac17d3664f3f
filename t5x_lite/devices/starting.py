"""Ends all processes of a run when one is told to end while they start.

The processes of a run wait for each other. Until training begins, none would
learn that another is to end: JAX turns SIGTERM into a note, which is read
between steps, and a process that Ctrl-C ends waits for the others. So a thread
of each process watches for these signals, and tells the other processes by
JAX's coordination service.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time

import jax
from jax.experimental import multihost_utils

_KEY = "t5x_lite/told_to_end"
_POLL_SECONDS = 0.5
_TRAINING_POLL_SECONDS = 5.0  # for a process that is still starting then

_HANDLER_SECONDS = 2.0

_libc = ctypes.CDLL(None)
_libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
_libc.signal.restype = ctypes.c_void_p


class _Watch:
  """Watches for signals to this process and to the others."""

  def __init__(self):
    self._joined = multihost_utils.distributed.global_state
    self._reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # A shell starts background jobs with SIGINT ignored: leave it so.
    signals = (signal.SIGINT, signal.SIGTERM)
    self._signals = [
      one for one in signals if signal.getsignal(one) is not signal.SIG_IGN
    ]
    self._jax_handler = _take_jax_handler()
    # By the pipe, the thread learns of a signal while the main thread waits.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    self._noted: list[int] = []
    self._previous = {
      one: signal.signal(one, lambda number, _: self._noted.append(number))
      for one in self._signals
    }
    self._poll_seconds = _POLL_SECONDS
    threading.Thread(target=self._run, daemon=True).start()

  def finish(self) -> list[int]:
    """Leaves signals to others from now on; goes on to ask for theirs."""
    signal.set_wakeup_fd(-1)
    self._signals = []  # The thread ends this process for no signal to it now.
    for one, handler in self._previous.items():
      signal.signal(one, handler)
    _libc.signal(signal.SIGTERM, self._jax_handler)
    self._poll_seconds = _TRAINING_POLL_SECONDS
    return self._noted

  def _run(self) -> None:
    while True:
      ready, _, _ = select.select([self._reader], [], [], self._poll_seconds)
      got = os.read(self._reader, 64) if ready else b""
      for number in got:
        if number in self._signals:
          # Without process 0, the others cannot be told, and learn of its loss.
          with contextlib.suppress(AttributeError, jax.errors.JaxRuntimeError):
            self._joined.client.key_value_set(_KEY, str(number), True)
          self._end(number, "told to end", polls=2)
      try:
        number = int(self._joined.client.key_value_try_get(_KEY))
      except (AttributeError, jax.errors.JaxRuntimeError):
        continue  # Nobody was told to, or this process has left the others.
      self._end(number, "another process was told to end", polls=0)

  def _end(self, number, why, *, polls):
    """Ends this process, once the others have had time to ask `polls` times.

    Process 0, which they ask, ends last.
    """
    # Others may end before: what then fails in the main thread is no news.
    sys.excepthook = lambda *ignored: time.sleep(60)
    print(
      f"t5x_lite: {why} ({signal.Signals(number).name}): all processes of this "
      "run end; no checkpoint was saved",
      file=sys.stderr,
      flush=True,
    )
    polls = 4 if self._joined.process_id == 0 else polls
    time.sleep(polls * _POLL_SECONDS)
    # The usual end would wait for the others.
    os._exit(os.EX_TEMPFAIL if number == signal.SIGTERM else 128 + number)


def _take_jax_handler() -> int | None:
  """Removes JAX's handler of SIGTERM, and returns it.

  It is C++, of which Python knows nothing, and a thread of JAX's sets it some
  time after this process has joined the others.
  """
  end = time.monotonic() + _HANDLER_SECONDS
  while True:
    handler = _libc.signal(signal.SIGTERM, None)
    if handler or time.monotonic() > end:
      return handler
    time.sleep(0.01)


_watch: _Watch | None = None


def watch() -> None:
  """Begins to watch; call it in the main thread once JAX has joined."""
  global _watch
  _watch = _Watch()


def finish() -> list[int]:
  """Ends the start: from now on, training handles signals.

  Returns:
    The signals that came too late to end the start; the caller sends them again
    once it handles them.
  """
  global _watch
  late = _watch.finish() if _watch is not None else []
  _watch = None
  return late
