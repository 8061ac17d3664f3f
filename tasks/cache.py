"""Caches derived files, such as vocabularies, in the user's cache directory."""

from __future__ import annotations

import hashlib
import os
import pathlib
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from t5x_lite.files.user_cache import directory

__all__ = [
  "digest", "directory", "temporary_name", "unit_interval", "write_atomic",
]  # fmt: skip


def digest(parts: Iterable[str | bytes]) -> str:
  """Hashes a sequence of strings to 16 hexadecimal digits."""
  state = hashlib.blake2b(digest_size=8)
  for part in parts:
    part = part.encode() if isinstance(part, str) else part
    # Prefixing the length makes ("ab", "c") differ from ("a", "bc").
    state.update(len(part).to_bytes(8, "little"))
    state.update(part)
  return state.hexdigest()


def unit_interval(text: str | bytes) -> float:
  """Hashes text to a number in [0, 1); equal texts have equal numbers."""
  return int(digest([text]), 16) / 2**64


def temporary_name(path: pathlib.Path) -> pathlib.Path:
  """Returns a unique temporary path in the same folder as a path.

  A process id would not be unique across machines or containers. Unlike with
  mkstemp, the user's umask sets the permissions.
  """
  return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


@contextmanager
def write_atomic(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary path, and renames it to `path` if the block succeeds.

  Readers and concurrent writers see either the old or the complete new file. If
  the block raises, the temporary file is deleted.
  """
  path = pathlib.Path(path)
  temporary = temporary_name(path)
  try:
    yield temporary
    with temporary.open("rb") as file:
      os.fsync(file.fileno())  # Or a power failure may leave it empty.
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
