"""Foresees what a disk refuses, and says why it did."""

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

# A full disk or a missing right is no bug: said in one line, not as a trace.
_ERRORS = (
  errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES,
  errno.EPERM, errno.EIO,
)  # fmt: skip


@contextlib.contextmanager
def partial(path: epath.Path) -> Iterator[epath.Path]:
  """Yields a path to write to, which becomes `path` once the block succeeds.

  Other processes see the old file or the whole new one, however many of them,
  on whatever machines, write the same at the same time. A block that raises
  leaves nothing behind.
  """
  # Process ids are not enough: those of two machines, or containers, are alike.
  temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
  try:
    yield temporary
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def write_text(path: epath.Path, text: str) -> None:
  """Writes a file that other processes see whole or not at all."""
  with partial(path) as temporary:
    temporary.write_text(text)


def try_writing(folder: epath.Path) -> None:
  """Writes a megabyte into a folder, and removes it again.

  Raises:
    OSError: it cannot be written.
  """
  folder.mkdir(parents=True, exist_ok=True)
  # A name of its own: the other processes of a run try at the same time.
  probe = folder / f".probe-{uuid.uuid4().hex}"
  try:
    probe.write_bytes(bytes(1 << 20))
  finally:
    probe.unlink(missing_ok=True)


def check_writable(folder: epath.Path) -> None:
  """Raises ValueError where the first checkpoint would fail, hours later."""
  try:
    try_writing(folder)
  except OSError as error:
    reason = error.strerror or error
    raise ValueError(
      f"cannot write checkpoints to {folder}: {reason}; choose another"
      " --model_dir"
    ) from None


def check_room(folder: epath.Path, state: Any) -> None:
  """Raises OSError, before anything is written, where it cannot fit."""
  try:
    free = shutil.disk_usage(folder).free
  except OSError:  # No local disk.
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
  """Finds the disk's reason in what orbax, TensorStore or TensorFlow raise."""
  if isinstance(error, OSError) and error.errno in _ERRORS:
    return error.strerror
  for reason in map(os.strerror, _ERRORS):
    if reason in str(error):
      return reason
  return None
