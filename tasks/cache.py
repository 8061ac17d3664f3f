"""Keeps derived files (corpora, vocabularies) in the user's cache directory."""

from __future__ import annotations

import hashlib
import os
import pathlib
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def directory() -> pathlib.Path:
  """Returns $XDG_CACHE_HOME/t5x_lite, or a temporary folder of the user's."""
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


def digest(parts: Iterable[str | bytes]) -> str:
  """Hashes a sequence of strings to 16 hexadecimal digits."""
  state = hashlib.blake2b(digest_size=8)
  for part in parts:
    part = part.encode() if isinstance(part, str) else part
    # The length in front keeps ("ab", "c") apart from ("a", "bc").
    state.update(len(part).to_bytes(8, "little"))
    state.update(part)
  return state.hexdigest()


def unit_interval(text: str | bytes) -> float:
  """Hashes text to [0, 1): equal texts, and only they, stay together."""
  return int(digest([text]), 16) / 2**64


def temporary_name(path: pathlib.Path) -> pathlib.Path:
  """Returns a name beside a path that no other writer of it takes.

  Process ids would not do: those of two machines, or containers, are alike.
  Unlike mkstemp, it leaves the permissions to the user's umask.
  """
  return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


@contextmanager
def write_atomic(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary path that becomes `path` once the block succeeds.

  Readers and concurrent writers see the old file or the whole new one. A block
  that raises leaves nothing behind.
  """
  path = pathlib.Path(path)
  temporary = temporary_name(path)
  try:
    yield temporary
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
