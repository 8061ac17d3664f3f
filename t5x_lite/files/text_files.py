"""Reads text and JSON lines: one reader for every command and every source.

What a file holds decides how it is read, not its name:

  packed       gzip, bzip2 and xz are told by their first bytes
  JSON lines   the first line that is not blank is a whole JSON object; then
               every line is one
  plain text   anything else that is UTF-8

A name in .json, .jsonl or .ndjson (in capitals too, or before .gz) promises
JSON lines: a file that breaks the promise is refused. So is what is neither:
binary data, other encodings, JSON of another form, and a mix of both kinds.

A line ends at "\\n", "\\r\\n" or "\\r" (old Macs), in both kinds alike, and at
no other character: U+2028, form feeds and the like are text. A byte order mark
at the start is dropped. Paths are local or remote (gs://, s3://). Every fault
is one ValueError that names the file and the line.
"""

import bz2
import glob
import gzip
import io
import itertools
import lzma
import os
import re
from collections.abc import Iterable, Iterator, Sequence
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
  b"\x28\xb5\x2f\xfd": "packed with zstd: unpack it (zstd -d)",
  b"PK\x03\x04": "a zip archive: unpack it",
  b"\xff\xfe": "UTF-16: convert it to UTF-8, for example with iconv",
  b"\xfe\xff": "UTF-16: convert it to UTF-8, for example with iconv",
}
_MAGIC_BYTES = 10
_BUFFER_BYTES = 1 << 20


class Record(NamedTuple):
  """One line of a file: its place, for messages, and its fields."""

  place: str
  fields: dict[str, Any]


def expand(files: str | Sequence[str]) -> list[str]:
  """Returns the files that paths and globs stand for, sorted, each once.

  Raises:
    ValueError: a path or a glob stands for no file.
  """
  patterns = [files] if isinstance(files, str) else list(files)
  if not patterns:
    raise ValueError("no text file is given: state files")
  found = set()
  for pattern in patterns:
    path = _path(pattern)
    if path.is_dir():
      raise ValueError(
        f"no text file in {pattern!r}: name files, or a glob such as "
        f"{os.path.join(pattern.rstrip('/'), '*.txt')!r}"
      )
    # A file may have a bracket in its name.
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


def read_documents(
  files: Iterable[str], *, field: str = "text", documents: str = "blank_line"
) -> Iterator[str]:
  """Yields documents in the order of the files, one at a time.

  Args:
    files: paths, as from `expand`.
    field: the text's name in the objects of JSON lines, one document each.
    documents: how plain text is divided: at blank lines ("blank_line"), at
      every line ("line") or not at all ("file").

  Raises:
    ValueError: a file is unreadable, no text, or has none.
  """
  if documents not in DOCUMENTS:
    raise ValueError(
      f"documents ({documents!r}) must be one of "
      f"{', '.join(map(repr, DOCUMENTS))}"
    )
  for path in files:
    is_json, lines = _recognised(path)
    texts = (
      (_text(record, field) for record in _objects(path, lines))
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


def read_records(path: str) -> Iterator[Record]:
  """Yields the objects of JSON lines, or plain lines as {"text": line}.

  Blank lines are skipped. A text may hold a lone surrogate, written \\ud83d in
  JSON: `check_text` refuses it where it is to be tokenized.

  Raises:
    ValueError: the file is unreadable, or neither text nor JSON lines.
  """
  path = str(path)
  is_json, lines = _recognised(path)
  if is_json:
    yield from _objects(path, lines)
    return
  for number, line in lines:
    if line.strip():
      yield Record(_place(path, number), {"text": line})


def read_rows(path: str) -> Iterator[Record]:
  """Yields the objects of JSON lines whose every text can be tokenized.

  Raises:
    ValueError: the file is unreadable, no JSON lines, or a text in it, however
      deep, has a lone surrogate.
  """
  for record in _objects(path, _lines(path)):
    for text in json_text.texts(record.fields):
      check_text(text, record.place)
    yield record


def compression(path: str) -> str | None:
  """Names what a file is packed with: "gzip", "bzip2", "xz" or None."""
  try:
    with _path(path).open("rb") as file:
      return _compression(file.read(_MAGIC_BYTES))
  except Exception as error:
    raise _unreadable(path, error) from None


def check_text(text: str, place: str) -> None:
  """Refuses a text that cannot be encoded: one with a lone surrogate.

  These come of "\\ud83d" in JSON or Python, half of a pair that UTF-16 writes
  one character with, and of bytes on the command line that are not UTF-8.

  Args:
    text: what is to be tokenized.
    place: where it stands, for the message.

  Raises:
    ValueError: naming the place and the character.
  """
  if text.isascii():
    return
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise ValueError(
      f"{place} has a lone surrogate, \\u{ord(text[error.start]):x}, as "
      f"character {error.start + 1}, which UTF-8 cannot hold: repair the text"
    ) from None


def _path(name: str) -> epath.Path:
  try:
    return epath.Path(name).expanduser()
  except KeyError as error:
    raise ValueError(
      f"{name!r}: no file system is known for {error.args[0]}; paths are local "
      "or start with gs://, s3:// or az://"
    ) from None


def _glob(pattern: epath.Path) -> Iterable[epath.Path]:
  remote = re.fullmatch(r"(\w+://[^/]+)/(.*)", str(pattern))
  if not remote:
    return map(epath.Path, glob.glob(str(pattern), recursive=True))
  if "**" in remote[2]:
    raise ValueError(f"{str(pattern)!r}: ** is for local files alone")
  return epath.Path(remote[1]).glob(remote[2])


def _unreadable(path: str, error: Exception, number: int = 0) -> ValueError:
  """Returns the one line for what opening or unpacking a file raised."""
  if isinstance(error, ValueError):
    return error
  reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
  after = f" after line {number}" if number else ""
  return ValueError(
    f"cannot read {path}{after}: {reason or type(error).__name__}"
  )


class _Stream(io.RawIOBase):
  """Makes a stream of a file that may know `read` alone, as TensorFlow's."""

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


def _lines(path: str) -> Iterator[tuple[int, str]]:
  """Yields the numbers of a file's lines, from 1, and these without ends."""
  number = 0
  try:
    with _path(path).open("rb") as raw:
      file = io.BufferedReader(_Stream(raw), _BUFFER_BYTES)
      if packed := _compression(file.peek(_MAGIC_BYTES)):
        file = _PACKED[packed][1](file)
      for magic, what in _REFUSED.items():
        if not packed and file.peek(_MAGIC_BYTES).startswith(magic):
          raise ValueError(f"{path} is {what}")
      # Bytes that are not UTF-8 become lone surrogates, which UTF-8 has none
      # of: an exception would not know the line.
      text = io.TextIOWrapper(
        file, encoding="utf-8", errors="surrogateescape", newline=None
      )
      for number, line in enumerate(text, start=1):
        line = line.removesuffix("\n")
        if number == 1:
          line = line.removeprefix("\ufeff")
        _check_line(line, path, number)
        yield number, line
  except Exception as error:  # Each file system and packing has its own.
    raise _unreadable(path, error, number) from None


def _check_line(line: str, path: str, number: int) -> None:
  """Refuses a line that is not UTF-8, or not text."""
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
      f"{_place(path, number)} holds a zero byte: the file is binary, no text"
    )


def _place(path: str, number: int) -> str:
  return f"{path}, line {number}"


def _recognised(path: str) -> tuple[bool, Iterator[tuple[int, str]]]:
  """Tells whether a file is JSON lines, and returns its lines."""
  lines = _lines(path)
  before = []
  for number, line in lines:
    before.append((number, line))
    if line.strip():
      break
  lines = itertools.chain(before, lines)
  promised = _JSON_NAME.search(os.path.basename(path))
  if promised or (before and json_text.is_object(before[-1][1])):
    return True, lines
  return False, _plain(path, lines)


def _plain(
  path: str, lines: Iterable[tuple[int, str]]
) -> Iterator[tuple[int, str]]:
  """Passes plain lines on; refuses a file that is JSON for the most part.

  The odd JSON object in a text is text. But where half of the lines are JSON
  and the first is no whole object, the file is damaged, or JSON of another
  form: an array, objects over several lines or with commas between them.
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
      f"{path} is neither text nor JSON lines: {parts} of {count} lines are "
      "JSON, but the first is no whole object; write one object a line, as "
      "`jq -c .` does (`jq -c '.[]'` of an array)"
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


def _objects(path: str, lines: Iterable[tuple[int, str]]) -> Iterator[Record]:
  for number, line in lines:
    if line.strip():
      place = _place(path, number)
      yield Record(place, json_text.parse_object(line, place))


def _text(record: Record, field: str) -> str:
  """Returns a record's document."""
  text = record.fields.get(field)
  if isinstance(text, str):
    check_text(text, f"{record.place}, field {field!r}")
    return text
  fault = (
    f"field {field!r} is {json_text.dumps(text):.40}, no text"
    if field in record.fields
    else f"no field {field!r}"
  )
  has = ", ".join(map(repr, record.fields)) or "none"
  raise ValueError(
    f"{record.place}: {fault}; its fields: {has} (`field`, or --field, names "
    "the one with the text)"
  )
