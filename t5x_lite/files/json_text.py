"""Reads JSON, and writes strict JSON that every reader accepts.

JSON has no NaN and no infinity: they are written as null, and a warning names
them. Lone surrogates are written as escapes, \\ud83d, the only form that JSON
has for them. A "NaN" that another program wrote is read, and written as null.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging
from etils import epath

# Deeper values would exhaust the stack of recursive functions.
_MAX_DEPTH = 100
_MAX_NAMES = 5
_OBJECT = re.compile(r"""\s*[\[,]?\s*\{\s*(["'])[^"']*\1\s*:""")
_MEMBER = re.compile(r'\s*"[^"]*"\s*:')
_SURROGATE = re.compile("[\ud800-\udfff]")


def dumps(value: Any, *, what: str | None = None, **options: Any) -> str:
  """Returns a value as JSON text.

  Args:
    value: dicts, lists, strings and numbers.
    what: a name for the value, used in the warning about non-finite numbers;
      None gives no warning.
    **options: options of json.dumps, such as `indent` and `ensure_ascii`.
  """
  try:
    text = json.dumps(value, allow_nan=False, **options)
  except ValueError:
    if what is not None:
      warn(not_finite(value), what)
    loose = json.dumps(value, **options)
    plain = json.loads(loose, parse_constant=lambda _: None)
    text = json.dumps(plain, allow_nan=False, **options)
  return _SURROGATE.sub(lambda one: f"\\u{ord(one[0]):04x}", text)


def not_finite(value: Any, name: str = "") -> dict[str, float]:
  """Returns the NaN and infinite numbers in a value, by their paths.

  {"loss": nan, "bits": [1.0, inf]} gives {"loss": nan, "bits/1": inf}.
  """
  if isinstance(value, float):
    return {} if math.isfinite(value) else {name: value}
  if isinstance(value, dict):
    items = value.items()
  elif isinstance(value, list | tuple):
    items = enumerate(value)
  else:
    return {}
  found = {}
  for key, below in items:
    found |= not_finite(below, f"{name}/{key}" if name else str(key))
  return found


def warn(numbers: dict[str, float], what: str) -> None:
  """Logs a warning about numbers that are written as null, if any."""
  if numbers:
    names = [f"{name} is {x}" for name, x in numbers.items()]
    if len(names) > _MAX_NAMES:
      names[_MAX_NAMES:] = [f"{len(names) - _MAX_NAMES} more"]
    logging.warning("%s: %s (written as null)", what, ", ".join(names))


def read(path: epath.Path, *keys: str, remedy: str = "") -> dict[str, Any]:
  """Reads a file that holds one JSON object.

  Args:
    path: the file.
    *keys: what the object must have.
    remedy: what to do about a damaged file, for the error message.

  Raises:
    ValueError: the file is not a regular one, is empty, truncated or not a JSON
      object, or lacks a key.
  """
  if not path.is_file():  # Reading a pipe would wait forever.
    raise ValueError(f"{path} is not a file")
  content = path.read_bytes()
  try:
    found = json.loads(content)
    _check_depth(found)
    reason = "" if isinstance(found, dict) else "it is not a JSON object"
  except RecursionError:
    reason = f"it is nested more than {_MAX_DEPTH} levels deep"
  except ValueError as error:
    said = _plain(error)
    reason = f"it is not JSON ({said})" if content.strip() else "it is empty"
  lacking = [] if reason else [key for key in keys if key not in found]
  if lacking:
    reason = f"it lacks {lacking[0]!r}"
  if reason:
    raise ValueError(f"{path} is damaged: {reason}{remedy and '; ' + remedy}")
  return found


def is_object(line: str) -> bool:
  """Returns whether a line is a JSON object, even one we refuse to read."""
  if not line.lstrip().startswith("{"):
    return False
  try:
    return isinstance(json.loads(line), dict)
  except json.JSONDecodeError:
    return False
  except (RecursionError, ValueError):  # Too deep, or too many digits.
    return True


def begins_object(line: str, *, open_before: bool = False) -> bool:
  """Returns whether a line begins like a JSON object or an array of objects.

  It may be incomplete or followed by other text: {"text": "a"}, with a comma.

  Args:
    line: the text of the line.
    open_before: whether the line may continue an object: "text": "a",
  """
  return bool(_OBJECT.match(line) or (open_before and _MEMBER.match(line)))


def parse_object(line: str, place: str) -> dict[str, Any]:
  """Parses a JSON object.

  Args:
    line: the text.
    place: its file and line, for error messages.

  Raises:
    ValueError: the text is not an object, is nested too deep, has a number of
      thousands of digits, or has a duplicate field.
  """
  try:
    fields = json.loads(line, object_pairs_hook=_once)
    if line.count("{") + line.count("[") > _MAX_DEPTH:
      _check_depth(fields)
  except json.JSONDecodeError as error:
    raise ValueError(
      f"{place}: bad JSON at column {error.colno} ({error.msg}): each line "
      "must be a complete object, as `jq -c .` writes them"
    ) from None
  except RecursionError:
    raise ValueError(
      f"{place}: nested more than {_MAX_DEPTH} levels deep"
    ) from None
  except ValueError as error:  # Of Python's limit on digits, the first half.
    raise ValueError(f"{place}: {_plain(error)}") from None
  if not isinstance(fields, dict):
    is_list = isinstance(fields, list)
    tip = "; `jq -c '.[]'` turns an array into lines" if is_list else ""
    raise ValueError(
      f'{place}: expected an object such as {{"text": "..."}}, got '
      f"{line.strip()[:40]}{tip}"
    )
  return fields


def _plain(error: ValueError) -> str:
  """Returns what JSON's reader says, without advice on Python's settings."""
  return str(error).partition("; use sys.set_int_max_str_digits")[0]


def texts(value: Any) -> Iterator[str]:
  """Yields all strings in a JSON value, field names included."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, dict):
    for key, below in value.items():
      yield key
      yield from texts(below)
  elif isinstance(value, list):
    for below in value:
      yield from texts(below)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
  fields = dict(pairs)
  if len(fields) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f"duplicate field {twice!r}")
  return fields


def _check_depth(value: Any) -> None:
  level = [value]
  for _ in range(_MAX_DEPTH):
    level = [
      below
      for one in level
      if isinstance(one, dict | list)
      for below in (one.values() if isinstance(one, dict) else one)
    ]
  if any(isinstance(one, dict | list) for one in level):
    raise RecursionError
