"""Filters Orbax's internal log messages.

Orbax logs each of its steps, and also logs in full the errors that it raises.
When one of its readers or writers fails, it closes the event loop that all of
them share. The others then fail too, and asyncio logs an error or the
interpreter prints a traceback for each.
"""

import logging
import os
import sys

_FOLDER = f"{os.sep}orbax{os.sep}"


def silence() -> None:
  """Installs the filters; called once, on import."""
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
