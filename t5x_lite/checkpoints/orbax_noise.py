"""Keeps what goes on inside orbax off the user's screen.

Orbax logs each step of its work, and logs in full the errors that it raises
as well. When one of its readers or writers fails, it closes the event loop of
all of them; the others then complain to asyncio, which logs that, or to the
interpreter, which prints a trace for each.
"""

import logging
import os
import sys

_FOLDER = f"{os.sep}orbax{os.sep}"


def silence() -> None:
  """Drops those messages and no others; called once, on import."""
  logging.getLogger("absl").addFilter(
    lambda record: _FOLDER not in record.pathname
  )
  logging.getLogger("asyncio").addFilter(
    lambda record: "orbax" not in record.getMessage()
  )
  show = sys.unraisablehook

  def show_others(unraisable):
    late = isinstance(unraisable.exc_value, RuntimeError)
    if not (late and str(unraisable.exc_value) == "Event loop is closed"):
      show(unraisable)

  sys.unraisablehook = show_others
