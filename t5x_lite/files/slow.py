"""Says what is being done, and how far it is, if it takes long."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

import tqdm

Item = TypeVar("Item")

# Seconds without a line, after which one is printed; and if the same thing is
# still being done.
NEW, SAME = 8.0, 30.0
_POLL = 0.5


class _Span:
  """Holds what is being done."""

  def __init__(self, what: str | None, detail: Callable[[], str] | None):
    self.what, self.detail = what, detail
    self.begun = time.monotonic()

  def __str__(self) -> str:
    return f"{self.what}, {self.detail()}" if self.detail else f"{self.what}"


class _Watch:
  """Prints the blocks under way, from a thread of its own.

  One thread for all: a block may be as short as a training step.
  """

  def __init__(self):
    self.spans: list[_Span] = []  # The innermost last.
    self._said, self._said_at = None, 0.0
    self._thread: threading.Thread | None = None
    self._starting = threading.Lock()

  def start(self) -> None:
    with self._starting:
      # A forked process has no threads.
      if self._thread is None or not self._thread.is_alive():
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

  def _run(self) -> None:
    while True:
      time.sleep(_POLL)
      if line := self.line(time.monotonic()):
        tqdm.tqdm.write(line, file=sys.stderr)

  def line(self, now: float) -> str | None:
    """Returns the line that is due, if one is."""
    shown = []
    for span in self.spans.copy():
      shown = [] if span.what is None else [*shown, span]
    if not shown:
      return None
    quiet = now - max(shown[0].begun, self._said_at)
    if quiet < (SAME if shown[-1] is self._said else NEW):
      return None
    self._said, self._said_at = shown[-1], now
    seconds = now - shown[0].begun
    return f"t5x_lite: {': '.join(map(str, shown))} ({seconds:.0f} s so far)"


_watch = _Watch()


@contextlib.contextmanager
def announced(
  what: str | None, *, detail: Callable[[], str] | None = None
) -> Iterator[None]:
  """Prints a line to stderr if a block takes long, and again while it does.

      t5x_lite: ablate: planning, 3 of 10, 02:10 left: compiling (9 s so far)

  Also a decorator of functions.

  Args:
    what: what the block does: "reading the checkpoint"; None: nothing is
      said, as the block has a bar or lines of its own.
    detail: returns how far it is.
  """
  _watch.start()
  span = _Span(what, detail)
  _watch.spans.append(span)
  try:
    yield
  finally:
    _watch.spans.remove(span)


def counted(items: Collection[Item], what: str) -> Iterator[Item]:
  """Yields items, and announces the loop with how many are done."""
  done, begun = 0, time.monotonic()

  def detail() -> str:
    line = f"{done} of {len(items)}"
    if done:
      seconds = (time.monotonic() - begun) / done * (len(items) - done)
      line += f", {tqdm.tqdm.format_interval(seconds)} left"
    return line

  with announced(what, detail=detail):
    for item in items:
      yield item
      done += 1
