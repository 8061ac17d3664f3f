"""Appends records to a file: each of them whole, or not at all."""

import os

from etils import epath

from t5x_lite.files import disk


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
  """A file of records that grows, local or remote.

  An object of a store is written anew, as a whole, for each record.
  """

  def __init__(self, path: epath.Path):
    """Opens the file, or creates it."""
    self._path = path
    self._file = None
    if "://" not in str(path):
      self._file = open(path, "ab", buffering=0)
    elif not path.exists():
      disk.write_text(path, "")

  def write(self, text: str) -> None:
    """Appends a text.

    Raises:
      ValueError: the file was removed, or cannot be written.
    """
    try:
      with disk.one_kind_of_error(self._path):
        is_there = self._is_there()
        if is_there and self._file:
          append(self._file.fileno(), text.encode())
        elif is_there:
          with self._path.open("ab") as file:
            file.write(text.encode())
    except OSError as error:
      raise ValueError(
        f"cannot write {self._path}: {error.strerror or error}; what is in it"
        " is complete"
      ) from None
    if not is_there:
      raise ValueError(
        f"{self._path} was removed or replaced while it was written: stops, and"
        " writes nothing more"
      )

  def _is_there(self) -> bool:
    if self._file is None:
      return self._path.exists()
    try:
      opened, found = os.fstat(self._file.fileno()), os.stat(self._path)
    except FileNotFoundError:
      return False
    return os.path.samestat(opened, found)

  def close(self) -> None:
    """Closes the file."""
    if self._file:
      self._file.close()
