"""Keeps a second process from writing where one is writing.

    with lock.exclusive(path / lock.NAME):
      ...

The lock is a file, which is removed at the end. On a local file system it is
locked by flock, which ends with its process, however that ends. Where there is
no flock, on object stores and some network file systems, the file is a lease
(lease.py).
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from typing import IO

from etils import epath

from t5x_lite.files import disk, lease

# Of the lock of a whole directory: a run, a study, converted weights.
NAME = ".lock"


class Held(ValueError):
  """Says that another process holds a lock.

  Attributes:
    holder: that process, "process 12 on host".
  """

  def __init__(self, path: epath.Path, holder: str):
    super().__init__(f"{path} is held by {holder}: wait for its end")
    self.holder = holder


@contextlib.contextmanager
def exclusive(path: epath.PathLike, *, wait: bool = False) -> Iterator[None]:
  """Holds a lock file, in a folder that exists.

  Args:
    path: the lock file.
    wait: whether to wait for another holder's end.

  Raises:
    Held: another process holds it, and `wait` is False.
    ValueError: the folder cannot be written to.
  """
  path = epath.Path(path)
  holder = f"process {os.getpid()} on {socket.gethostname()}"
  file = None if "://" in str(path) else flocked(path, wait=wait)
  if file is None:
    try:
      with lease.held(path, holder, wait=wait):
        yield
    except lease.Taken as other:
      raise Held(path, str(other)) from None
    return
  with file:
    file.truncate(0)
    file.write(holder)
    file.flush()
    try:
      yield
    finally:
      if _is_at(file, path):  # Another's, if the folder was made anew.
        path.unlink(missing_ok=True)


def flocked(path: epath.PathLike, *, wait: bool = False) -> IO[str] | None:
  """Locks a local file by flock, for this process and those that inherit it.

  Args:
    path: the lock file; it is made if it is missing.
    wait: whether to wait for another holder's end.

  Returns:
    The open file, or None where there is no flock.

  Raises:
    Held: another process holds it, and `wait` is False.
    ValueError: the folder cannot be written to.
  """
  path = epath.Path(path)
  while True:
    try:
      file = open(path, "a+")
    except OSError as error:
      raise ValueError(f"cannot write {path}: {error.strerror}") from None
    try:
      fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
      with file:
        file.seek(0)
        raise Held(path, file.read() or "another process") from None
    except OSError:
      file.close()
      return None
    if _is_at(file, path):
      return file
    file.close()  # Its last holder removed it in the meantime.


def _is_at(file: IO[str], path: epath.Path) -> bool:
  try:
    return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
  except FileNotFoundError:
    return False


@contextlib.contextmanager
def directory(path: epath.PathLike) -> Iterator[None]:
  """Holds a directory against other writers, and makes it if it is missing.

  A directory that is made, and in which nothing was written, is removed.

  Raises:
    Held: another process holds it.
    ValueError: it cannot be written to.
  """
  path = epath.Path(path)
  made = disk.missing_folders(path)
  try:
    with disk.one_kind_of_error(path):
      path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(f"cannot make {path}: {error.strerror or error}") from None
  try:
    with exclusive(path / NAME):
      yield
  finally:
    # One that is not empty stays.
    with contextlib.suppress(OSError, ValueError):
      for one in made:
        one.rmdir()
