"""Appends records to a file: each of them whole, or not at all."""

import os

from etils import epath


def append(descriptor: int, data: bytes) -> None:
  """Appends bytes to an open file: all of them or, if that fails, none.

  Raises:
    OSError: the disk is full, say.
  """
  size = os.fstat(descriptor).st_size
  try:
    while data:  # A disk that gets full takes a part of them first.
      data = data[os.write(descriptor, data) :]
  except OSError:
    os.ftruncate(descriptor, size)
    raise


class Appended:
  """A file of records that grows, local or remote."""

  def __init__(self, path: epath.Path):
    """Opens the file, or creates it."""
    self._path = path
    self._is_local = "://" not in str(path)
    if self._is_local:
      self._file = open(path, "ab", buffering=0)
    else:
      self._file = path.open("ab")

  def write(self, text: str) -> None:
    """Appends a text.

    Raises:
      ValueError: the file was removed, or cannot be written.
    """
    if not self._is_there():
      raise ValueError(
        f"{self._path} was removed or replaced while it was written: stops, and"
        " writes nothing more"
      )
    try:
      if self._is_local:
        append(self._file.fileno(), text.encode())
      else:
        self._file.write(text.encode())
        self._file.flush()
    except OSError as error:
      raise ValueError(
        f"cannot write {self._path}: {error.strerror or error}; what is in it"
        " is complete"
      ) from None

  def _is_there(self) -> bool:
    if not self._is_local:
      return self._path.exists()
    try:
      opened, found = os.fstat(self._file.fileno()), os.stat(self._path)
    except FileNotFoundError:
      return False
    return os.path.samestat(opened, found)

  def close(self) -> None:
    """Closes the file."""
    self._file.close()
