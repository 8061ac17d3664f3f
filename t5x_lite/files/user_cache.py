"""Finds the user's cache directory, for files that can be made again."""

import os
import pathlib
import tempfile


def directory() -> pathlib.Path:
  """Returns $XDG_CACHE_HOME/t5x_lite, or a temporary folder per user."""
  base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  path = pathlib.Path(base) / "t5x_lite"
  try:
    path.mkdir(parents=True, exist_ok=True)
    if os.access(path, os.W_OK):
      return path
  except OSError:
    pass
  path = pathlib.Path(tempfile.gettempdir()) / f"t5x_lite-{os.getuid()}"
  path.mkdir(mode=0o700, exist_ok=True)
  return path
