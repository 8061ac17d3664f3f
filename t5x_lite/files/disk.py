"""Checks free space and permissions, reads disk errors, writes atomically."""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

# A full disk or a denied permission is no bug: one line, not a traceback.
_ERRORS = (
  errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES,
  errno.EPERM, errno.EIO,
)  # fmt: skip


@contextlib.contextmanager
def partial(path: epath.Path) -> Iterator[epath.Path]:
  """Writes a file atomically: yields a temporary path, renamed to `path`.

  Other processes find either the old file or the complete new one, even if
  several processes on several machines write it at the same time, and even
  after a power failure. If the block raises, the temporary file is removed.
  """
  # Process ids are not enough: two machines or containers may share one.
  temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
  try:
    yield temporary
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)
  finally:
    temporary.unlink(missing_ok=True)


def _sync(path: epath.Path) -> None:
  """Waits until a local file, or a folder's list of files, is on the disk."""
  if "://" not in str(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)


@contextlib.contextmanager
def one_kind_of_error(path: epath.Path) -> Iterator[None]:
  """Turns the errors of an object store's client into OSError, in one line."""
  try:
    yield
  except OSError:
    raise
  except Exception as error:  # Each store's client raises its own.
    if "://" not in str(path):
      raise
    why = str(error).partition("\n")[0] or type(error).__name__
    raise OSError(errno.EIO, why) from None


def missing_folders(path: epath.Path) -> list[epath.Path]:
  """Returns a folder and those above it that do not exist, the deepest first.

  An object store has no folders, and refuses a question about what is above its
  buckets: none is missing there.
  """
  if "://" in str(path):
    return []
  return [folder for folder in (path, *path.parents) if not folder.exists()]


def write_text(path: epath.Path, text: str) -> None:
  """Writes a text file atomically, in UTF-8."""
  with partial(path) as temporary:
    temporary.write_bytes(text.encode())


def try_writing(folder: epath.Path) -> None:
  """Writes a megabyte to a folder, and removes it again.

  Raises:
    OSError: the write failed.
  """
  # A unique name: the other processes of a run try at the same time.
  probe = folder / f".probe-{uuid.uuid4().hex}"
  with one_kind_of_error(folder):
    folder.mkdir(parents=True, exist_ok=True)
    try:
      probe.write_bytes(bytes(1 << 20))
    finally:
      probe.unlink(missing_ok=True)


def check_writable(folder: epath.Path) -> None:
  """Raises ValueError at once if checkpoints cannot be written to a folder."""
  try:
    try_writing(folder)
  except OSError as error:
    reason = error.strerror or error
    raise ValueError(
      f"cannot write checkpoints to {folder}: {reason}; choose another"
      " --model_dir"
    ) from None


class HeldFolder:
  """A folder that is held open, so that its removal is noticed."""

  def __init__(self, path: epath.Path):
    self._path = path
    self._descriptor = None
    if "://" not in str(path):
      self._descriptor = os.open(path, os.O_RDONLY)

  def is_there(self) -> bool:
    """Returns whether the path still leads to this very folder."""
    if self._descriptor is None:
      return self._path.exists()
    try:
      found = os.stat(self._path)
    except FileNotFoundError:
      return False
    # While it is open, no other folder gets its number.
    return os.path.samestat(os.fstat(self._descriptor), found)

  def close(self) -> None:
    """Ends the holding."""
    if self._descriptor is not None:
      os.close(self._descriptor)
      self._descriptor = None


def check_room(folder: epath.Path, state: Any) -> None:
  """Raises OSError if there is too little free space to save a state."""
  try:
    free = shutil.disk_usage(folder).free
  except OSError:  # Not a local disk.
    return
  needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  short = np.array(free < needed)
  if jax.process_count() > 1:
    short = multihost_utils.process_allgather(short)
  if short.any():
    raise OSError(
      errno.ENOSPC,
      f"{os.strerror(errno.ENOSPC)} ({needed / 1e6:,.0f} MB to write,"
      f" {free / 1e6:,.0f} MB free)",
    )


def reason(error: BaseException) -> str | None:
  """Returns the disk error in an error of Orbax, TensorStore or TensorFlow."""
  if isinstance(error, OSError) and error.errno in _ERRORS:
    return error.strerror
  for reason in map(os.strerror, _ERRORS):
    if reason in str(error):
      return reason
  return None
