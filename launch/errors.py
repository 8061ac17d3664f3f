"""Separates user errors from bugs.

A user error is printed as one line, with exit status 2; a bug keeps its
traceback.
"""

import errno
import os
import re
import traceback

_HERE = os.path.dirname(os.path.abspath(__file__))
_STANDARD = os.path.dirname(os.__file__) + os.sep
_FOLDERS = tuple(
  os.path.join(os.path.dirname(_HERE), package) + os.sep
  for package in ("launch", "t5x_lite", "tasks")
)


def user_line(error: BaseException) -> str | None:
  """Returns the line to print for a user error, or None for a bug.

  A `ValueError` or `OSError` raised by our own code is a user error: a bad
  setting or file. So is an `OSError` that the standard library raises for a
  file that our code names. Others raised inside a library are our bugs, except
  for a full disk.
  """
  if _is_full_disk(error):
    return f"the disk is full: {_gin_context(error)}"
  if not isinstance(error, ValueError | OSError):
    return None
  if isinstance(error, UnicodeError) or not _is_ours(error):
    return None
  if isinstance(error, OSError) and error.filename is not None:
    return f"{error.filename}: {error.strerror}"
  return _gin_context(error)


def _is_full_disk(error) -> bool:
  return isinstance(error, OSError) and error.errno in (
    errno.ENOSPC,
    errno.EDQUOT,
  )


def _is_ours(error) -> bool:
  files = [f.filename for f in traceback.extract_tb(error.__traceback__)]
  if isinstance(error, OSError) and error.filename is not None:
    while files and _is_standard(files[-1]):
      files.pop()
  # gin's wrappers re-raise errors, so the last frame is the origin.
  return bool(files) and os.path.abspath(files[-1]).startswith(_FOLDERS)


def _is_standard(file) -> bool:
  if file.startswith("<frozen "):
    return True
  return file.startswith(_STANDARD) and "site-packages" not in file


def _gin_context(error) -> str:
  """Returns the message in one line, with the gin configurable that raised it.

  gin appends "In call to configurable 'Mlp' (<class ...>) in scope 'decoder'"
  for each level; the first one names the object with the error.
  """
  message, *context = str(error).split("\n  In call to configurable ")
  if not context:
    return message
  match = re.match(r"'(\S+)' \(.*\)(?: in scope '(\S+)')?", context[0])
  if not match:
    return message
  where = f"{match[2]}/{match[1]}" if match[2] else match[1]
  return f"{message} [in {where}]"
