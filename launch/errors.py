"""Tells the user's mistakes from defects of the code.

A mistake is one line and exit status 2; a defect keeps its traceback.
"""

import errno
import os
import re
import traceback

_HERE = os.path.dirname(os.path.abspath(__file__))
_FOLDERS = tuple(
  os.path.join(os.path.dirname(_HERE), package) + os.sep
  for package in ("launch", "t5x_lite", "tasks")
)


def user_line(error: BaseException) -> str | None:
  """Returns the line to print for a user's mistake, or None for a defect.

  A `ValueError` or `OSError` that our own code raised is the user's: a bad
  setting or file. The same from inside a library is a defect of ours, except
  for a full disk, whoever meets it.
  """
  if _is_full_disk(error):
    return f"the disk is full: {_gin_context(error)}"
  if not isinstance(error, ValueError | OSError):
    return None
  if isinstance(error, UnicodeError) or not _is_ours(error):
    return None
  return _gin_context(error)


def _is_full_disk(error) -> bool:
  return isinstance(error, OSError) and error.errno in (
    errno.ENOSPC,
    errno.EDQUOT,
  )


def _is_ours(error) -> bool:
  frames = traceback.extract_tb(error.__traceback__)
  # gin's wrappers are not the origin of what they pass on.
  return bool(frames) and os.path.abspath(frames[-1].filename).startswith(
    _FOLDERS
  )


def _gin_context(error) -> str:
  """Returns the message, gin's lines on the way to it folded into one.

  gin appends "In call to configurable 'Mlp' (<class ...>) in scope 'decoder'"
  for each level: the first names the object that is wrong.
  """
  message, *context = str(error).split("\n  In call to configurable ")
  if not context:
    return message
  match = re.match(r"'(\S+)' \(.*\)(?: in scope '(\S+)')?", context[0])
  if not match:
    return message
  where = f"{match[2]}/{match[1]}" if match[2] else match[1]
  return f"{message} [in {where}]"
