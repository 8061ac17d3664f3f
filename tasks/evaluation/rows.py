"""Reads and checks the fields of JSON rows.

  {"choices": {"text": ["ja", "nein"], "label": ["A", "B"]}, "answerKey": "B"}
  flat     "choices/text", "choices/label", "answerKey"
  texts(row, "choices/text") -> ["ja", "nein"]
  label(row, "answerKey", ["A", "B"]) -> "B"

Each function raises a ValueError with the field, its value and what it must be;
`json_rows.JsonRows` adds the file and the line.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence

from tasks.text_to_text import TextToText

Row = Mapping[str, object]


def reader(fields: Mapping[str, Callable]) -> Callable[[Row], dict]:
  """Returns a function that reads each field by a function of (row, name)."""
  return lambda row: {name: read(row, name) for name, read in fields.items()}


def of_template(template: TextToText) -> Callable[[Row], dict]:
  """Returns a function that reads the fields named in a template."""
  fields = dict.fromkeys(template.fields, text_or_number)
  for name, names in template.labels.items():
    fields[name] = functools.partial(class_number, names=names)
  return reader(fields)


def text(row: Row, name: str, *, empty: bool = False) -> str:
  """Returns a text field; blank ones are refused unless `empty`."""
  value = _get(row, name)
  if not isinstance(value, str) or not (value.strip() or empty):
    raise wrong(name, value, "a text" if empty else "a text with content")
  return value


def text_or_number(row: Row, name: str) -> str | int | float:
  """Returns a field that a template can show: a text or a number."""
  value = _get(row, name)
  if not isinstance(value, str | int | float):
    raise wrong(name, value, "a text or a number")
  return value


def texts(
  row: Row, name: str, *, count: int | None = None, none: bool = False
) -> list[str]:
  """Returns a list of texts that are not blank.

  Args:
    row: the row.
    name: the field.
    count: the required number of texts; None: at least one.
    none: whether the list may be empty.
  """
  value = _get(row, name)
  fits = isinstance(value, list) and all(
    isinstance(item, str) and item.strip() for item in value
  )
  if not fits or (len(value) != count if count else not (value or none)):
    some = f"{count} texts" if count else "texts" if none else "1 or more texts"
    raise wrong(name, value, f"a list of {some} with content")
  return value


def labels(row: Row, name: str, *, count: int) -> list[str]:
  """Returns the labels of choices, letters or numbers, as texts."""
  value = _get(row, name)
  names = list(map(str, value)) if isinstance(value, list) else []
  if len(names) != count or len(set(names)) < count:
    raise wrong(name, value, f"a list of {count} different labels")
  return names


def label(row: Row, name: str, among: Sequence[str]) -> str:
  """Returns a value that is one of some labels, as a text."""
  value = _get(row, name)
  if str(value) not in among:
    raise wrong(name, value, f"one of {', '.join(among)}")
  return str(value)


def index(row: Row, name: str, size: int, why: str = "") -> int:
  """Returns a number below `size`, which may be written as a text."""
  value = _get(row, name)
  if isinstance(value, str) and value.isdecimal():
    value = int(value)
  if type(value) is not int or not 0 <= value < size:
    raise wrong(name, value, f"a number from 0 to {size - 1}{why}")
  return value


def answer(row: Row, name: str, size: int) -> int:
  """Returns the index of the correct one of `size` choices."""
  return index(row, name, size, ": rows without an answer have no score")


def number(row: Row, name: str) -> float:
  """Returns a finite number."""
  value = _get(row, name)
  if type(value) not in (int, float) or not math.isfinite(value):
    raise wrong(name, value, "a number")
  return float(value)


def integer(row: Row, name: str) -> int:
  """Returns a whole number."""
  value = _get(row, name)
  if type(value) is not int:
    raise wrong(name, value, "a whole number")
  return value


def class_number(row: Row, name: str, names: Sequence[str]) -> int:
  """Returns the number of a class, given by number or name; -1 is unlabelled.

  True and false, in the files of SuperGLUE's authors, are 1 and 0.
  """
  value = _get(row, name)
  if value in names:
    return names.index(value)
  if not isinstance(value, int) or not -1 <= value < len(names):
    wanted = f"a number from 0 to {len(names) - 1}, -1 for unlabelled"
    raise wrong(name, value, f"{wanted}, or one of {', '.join(names)}")
  return int(value)


def _get(row: Row, name: str):
  if name not in row:
    raise ValueError(f"no field {name!r}: the row has {', '.join(row)}")
  return row[name]


def wrong(name: str, value, wanted: str) -> ValueError:
  return ValueError(f"field {name!r} ({value!r:.60}) must be {wanted}")
