"""Reads text and JSON Lines files, for every command and data source.

The format is detected from the file's contents:

  compressed   gzip, bzip2 and xz are recognised by their first bytes
  JSON Lines   the first line that is not blank is a complete JSON object; then
               every line must be one
  plain text   anything else that is UTF-8

A file named .json, .jsonl or .ndjson (in any case, also before .gz) must be
JSON Lines. Anything else is refused: binary data, other encodings, other forms
of JSON, and a mix of text and JSON.

In both formats a line ends at "\\n", "\\r\\n" or "\\r" (old Macs) and at no
other character: U+2028, form feeds and the like are text. A byte order mark at
the start is dropped. Paths are local or remote (gs://, s3://); TensorFlow tries
reads of gs:// ten times again, after 0.1 to 32 s. Every error is a one-line
ValueError that names the file and the line.
"""

import bz2
import glob
import gzip
import io
import itertools
import lzma
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from t5x_lite.files import json_text

DOCUMENTS = ("blank_line", "line", "file")

_JSON_NAME = re.compile(
  r"\.(json|jsonl|ndjson)(\.(gz|bgz|bz2|xz|zst))*$", re.IGNORECASE
)
_PACKED = {
  "gzip": (re.compile(rb"\x1f\x8b"), gzip.open),
  "bzip2": (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), bz2.open),
  "xz": (re.compile(rb"\xfd7zXZ\0"), lzma.open),
}
_REFUSED = {
  b"\x28\xb5\x2f\xfd": "compressed with zstd: decompress it (zstd -d)",
  b"PK\x03\x04": "a zip archive: unpack it",
  b"\xff\xfe": "UTF-16: convert it to UTF-8, for example with iconv",
  b"\xfe\xff": "UTF-16: convert it to UTF-8, for example with iconv",
}
_MAGIC_BYTES = 10
_BUFFER_BYTES = 1 << 20


class Record(NamedTuple):
  """Holds one line of a file: its place, for messages, and its fields."""

  place: str
  fields: dict[str, Any]


def expand(files: str | Sequence[str]) -> list[str]:
  """Returns the files that paths and globs match, sorted, without duplicates.

  Raises:
    ValueError: a path or a glob matches no file.
  """
  patterns = [files] if isinstance(files, str) else list(files)
  if not patterns:
    raise ValueError("no text files given: set files")
  found = set()
  for pattern in patterns:
    path = _path(pattern)
    if path.is_dir():
      raise ValueError(
        f"{pattern!r} is a folder: give files, or a glob such as "
        f"{os.path.join(pattern.rstrip('/'), '*.txt')!r}"
      )
    # An existing file first: its name may have a bracket.
    if path.exists():
      found.add(str(path))
    elif not glob.has_magic(pattern):
      raise ValueError(f"no such text file: {pattern!r}")
    else:
      matches = {str(match) for match in _glob(path) if not match.is_dir()}
      if not matches:
        raise ValueError(f"no text file matches {pattern!r}")
      found |= matches
  return sorted(found)


def refuse(error: ValueError) -> None:
  """Raises the error of a bad line."""
  raise error


def read_documents(
  files: Iterable[str],
  *,
  field: str = "text",
  documents: str = "blank_line",
  on_bad_line: Callable[[ValueError], None] = refuse,
) -> Iterator[str]:
  """Yields the documents of text files one at a time, file by file.

  Args:
    files: paths, as from `expand`.
    field: the field of a JSON line that holds its document.
    documents: how plain text is split: at blank lines ("blank_line"), at every
      line ("line") or not at all ("file").
    on_bad_line: is called with the error, which names file and line, of a line
      that is not UTF-8 or not a JSON object with a text; if it returns, the
      line is left out.

  Raises:
    ValueError: a file is unreadable, is not text, or has no text.
  """
  if documents not in DOCUMENTS:
    raise ValueError(
      f"documents ({documents!r}) must be one of "
      f"{', '.join(map(repr, DOCUMENTS))}"
    )
  for path in files:
    is_json, lines = _recognised(path, on_bad_line)
    texts = (
      _objects(path, lines, lambda record: _text(record, field), on_bad_line)
      if is_json
      else _divided((line for _, line in lines), documents)
    )
    has_text = False
    for text in texts:
      if text.strip():
        has_text = True
        yield text
    if not has_text:
      raise ValueError(f"text file {path} is empty")


def read_records(
  path: str, on_bad_line: Callable[[ValueError], None] = refuse
) -> Iterator[Record]:
  """Yields the objects of JSON Lines, or plain lines as {"text": line}.

  Blank lines are skipped. A text may contain a lone surrogate, written \\ud83d
  in JSON: call `check_text` before tokenizing it. `on_bad_line` is as in
  `read_documents`.

  Raises:
    ValueError: the file is unreadable, or neither text nor JSON Lines.
  """
  path = str(path)
  is_json, lines = _recognised(path, on_bad_line)
  if is_json:
    yield from _objects(path, lines, on_bad_line=on_bad_line)
    return
  for number, line in lines:
    if line.strip():
      yield Record(_place(path, number), {"text": line})


def read_rows(path: str) -> Iterator[Record]:
  """Yields the objects of JSON Lines, and checks that they can be tokenized.

  Raises:
    ValueError: the file is unreadable or not JSON Lines, or a string in it, at
      any depth, has a lone surrogate.
  """
  for record in _objects(path, _lines(path)):
    for text in json_text.texts(record.fields):
      check_text(text, record.place)
    yield record


def compression(path: str) -> str | None:
  """Returns a file's compression format: "gzip", "bzip2", "xz" or None."""
  try:
    with _path(path).open("rb") as file:
      return _compression(file.read(_MAGIC_BYTES))
  except Exception as error:
    raise _unreadable(path, error) from None


def check_text(text: str, place: str) -> None:
  """Refuses a text with a lone surrogate, which cannot be encoded as UTF-8.

  A lone surrogate is half of a UTF-16 pair. It comes from "\\ud83d" in JSON or
  Python, or from command-line bytes that are not UTF-8. `place` is the text's
  origin, for the message.

  Raises:
    ValueError: the text has a lone surrogate; names the place and character.
  """
  if text.isascii():
    return
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise ValueError(
      f"{place} has a lone surrogate, \\u{ord(text[error.start]):x}, as "
      f"character {error.start + 1}, which UTF-8 cannot encode: fix the text"
    ) from None


def _path(name: str) -> epath.Path:
  try:
    return epath.Path(name).expanduser()
  except KeyError as error:
    raise ValueError(
      f"{name!r}: unsupported file system {error.args[0]}; paths must be local "
      "or start with gs://, s3:// or az://"
    ) from None


def _glob(pattern: epath.Path) -> Iterable[epath.Path]:
  remote = re.fullmatch(r"(\w+://[^/]+)/(.*)", str(pattern))
  if not remote:
    return map(epath.Path, glob.glob(str(pattern), recursive=True))
  if "**" in remote[2]:
    raise ValueError(f"{str(pattern)!r}: ** works for local files only")
  return epath.Path(remote[1]).glob(remote[2])


def _unreadable(path: str, error: Exception, number: int = 0) -> ValueError:
  """Returns a one-line error for one raised while reading a file."""
  if isinstance(error, ValueError):
    return error
  reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
  after = f" after line {number}" if number else ""
  return ValueError(
    f"cannot read {path}{after}: {reason or type(error).__name__}"
  )


class _Stream(io.RawIOBase):
  """Wraps a file that may only have `read`, such as TensorFlow's."""

  def __init__(self, file: Any):
    self._file = file

  def readable(self) -> bool:
    return True

  def readinto(self, buffer) -> int:
    data = self._file.read(len(buffer))
    buffer[: len(data)] = data
    return len(data)


def _compression(head: bytes) -> str | None:
  return next(
    (n for n, (magic, _) in _PACKED.items() if magic.match(head)), None
  )


def _lines(path: str, on_bad_line=refuse) -> Iterator[tuple[int, str]]:
  """Yields a file's lines as (number from 1, line without its end)."""
  number = 0
  try:
    with _path(path).open("rb") as raw:
      file = io.BufferedReader(_Stream(raw), _BUFFER_BYTES)
      if packed := _compression(file.peek(_MAGIC_BYTES)):
        file = _PACKED[packed][1](file)
      for magic, what in _REFUSED.items():
        if not packed and file.peek(_MAGIC_BYTES).startswith(magic):
          raise ValueError(f"{path} is {what}")
      # Bytes that are not UTF-8 become lone surrogates, found line by line
      # below; a decoding error would not give the line number.
      text = io.TextIOWrapper(
        file, encoding="utf-8", errors="surrogateescape", newline=None
      )
      for number, line in enumerate(text, start=1):
        line = line.removesuffix("\n")
        if number == 1:
          line = line.removeprefix("\ufeff")
        try:
          _check_line(line, path, number)
        except ValueError as error:
          on_bad_line(error)
          continue
        yield number, line
  except Exception as error:  # Each file system and format raises its own.
    raise _unreadable(path, error, number) from None


def _check_line(line: str, path: str, number: int) -> None:
  """Refuses a line that is not UTF-8 text."""
  if not line.isascii():
    try:
      line.encode()
    except UnicodeEncodeError as error:
      byte = ord(line[error.start]) & 0xFF
      raise ValueError(
        f"{_place(path, number)} is not UTF-8: byte 0x{byte:02x} after "
        f"{error.start} characters; convert the file, for example with iconv"
      ) from None
  if "\0" in line:
    raise ValueError(
      f"{_place(path, number)} has a zero byte: the file is binary, not text"
    )


def _place(path: str, number: int) -> str:
  return f"{path}, line {number}"


def _recognised(
  path: str, on_bad_line=refuse
) -> tuple[bool, Iterator[tuple[int, str]]]:
  """Returns whether a file is JSON Lines, and its lines."""
  lines = _lines(path, on_bad_line)
  before = []
  for number, line in lines:
    before.append((number, line))
    if line.strip():
      break
  lines = itertools.chain(before, lines)
  by_name = _JSON_NAME.search(os.path.basename(path))
  if by_name or (before and json_text.is_object(before[-1][1])):
    return True, lines
  return False, _plain(path, lines)


def _plain(
  path: str, lines: Iterable[tuple[int, str]]
) -> Iterator[tuple[int, str]]:
  """Yields the lines of plain text; refuses a file that is mostly JSON.

  An occasional JSON object in a text is text. But if at least half of the lines
  are JSON and the first is not a complete object, the file is damaged or in
  another form of JSON: an array, objects over several lines, or objects with
  commas between them.
  """
  count = parts = keys = 0
  indented = False
  for number, line in lines:
    yield number, line
    if line.strip():
      indented = indented if count else line.lstrip()[0] in "[{"
      count += 1
      has_key = json_text.begins_object(line, open_before=indented)
      keys += has_key
      parts += has_key or (indented and not line.strip(" \t[]{},"))
  if keys and 2 * parts >= count:
    raise ValueError(
      f"{path} is neither text nor JSON Lines: {parts} of {count} lines are "
      "JSON, but the first is not a complete object; write one object per "
      "line, as `jq -c .` does (`jq -c '.[]'` for an array)"
    )


def _divided(lines: Iterable[str], documents: str) -> Iterator[str]:
  if documents == "line":
    yield from lines
  elif documents == "file":
    yield "\n".join(lines).strip("\n")
  else:
    paragraph = []
    for line in lines:
      if line.strip():
        paragraph.append(line)
      elif paragraph:
        yield "\n".join(paragraph)
        paragraph = []
    yield "\n".join(paragraph)


def _objects(
  path: str,
  lines: Iterable[tuple[int, str]],
  convert: Callable[[Record], Any] = lambda record: record,
  on_bad_line: Callable[[ValueError], None] = refuse,
) -> Iterator[Any]:
  for number, line in lines:
    if line.strip():
      place = _place(path, number)
      try:
        found = convert(Record(place, json_text.parse_object(line, place)))
      except ValueError as error:
        on_bad_line(error)
      else:
        yield found


def _text(record: Record, field: str) -> str:
  """Returns the document of a JSON line."""
  text = record.fields.get(field)
  if isinstance(text, str):
    check_text(text, f"{record.place}, field {field!r}")
    return text
  fault = (
    f"field {field!r} is {json_text.dumps(text):.40}, not a text"
    if field in record.fields
    else f"no field {field!r}"
  )
  has = ", ".join(map(repr, record.fields)) or "none"
  raise ValueError(
    f"{record.place}: {fault}; its fields: {has} (set `field`, or --field, to "
    "the one with the text)"
  )
