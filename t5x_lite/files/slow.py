"""Says what is being done, if it takes long."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

import tqdm

# After these seconds, and then at these intervals.
_FIRST, _NEXT = 5.0, 30.0
_POLL = 0.5


class _Span:
  """Holds what is being done, and when it is said next."""

  def __init__(self, what: str, detail: Callable[[], str] | None):
    self.what, self.detail = what, detail
    self.begun = time.monotonic()
    self.say_at = self.begun + _FIRST

  def line(self, now: float) -> str:
    """Returns the line to print."""
    detail = f", {self.detail()}" if self.detail else ""
    return f"t5x_lite: {self.what} ({now - self.begun:.0f} s so far{detail})"


# Spans under way, the innermost last; one thread watches them all, as spans may
# be as short and as many as training steps.
_spans: list[_Span] = []
_start = threading.Lock()
_watcher: threading.Thread | None = None


@contextlib.contextmanager
def announced(
  what: str, *, detail: Callable[[], str] | None = None
) -> Iterator[None]:
  """Prints a line to stderr if a block takes over 5 s, and again every 30 s.

  Also a decorator of functions. Of nested blocks, the innermost is announced.

  Args:
    what: what the block does: "reading the checkpoint".
    detail: returns how far it is.
  """
  _watch()
  span = _Span(what, detail)
  _spans.append(span)
  try:
    yield
  finally:
    _spans.remove(span)


def _watch() -> None:
  """Starts the thread that prints, if it does not run."""
  global _watcher
  with _start:
    if _watcher is None or not _watcher.is_alive():  # A fork has no threads.
      _watcher = threading.Thread(target=_print_spans, daemon=True)
      _watcher.start()


def _print_spans() -> None:
  while True:
    time.sleep(_POLL)
    now = time.monotonic()
    span = next(reversed(_spans.copy()), None)
    if span is not None and now >= span.say_at:
      span.say_at = now + _NEXT
      tqdm.tqdm.write(span.line(now), file=sys.stderr)
