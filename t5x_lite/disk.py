"""Foresees what a disk refuses, and says why it did."""

import errno
import os
import shutil
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


def check_writable(folder: epath.Path) -> None:
  """Raises ValueError where the first checkpoint would fail, hours later."""
  probe = folder / f".writable_{jax.process_index()}"
  try:
    folder.mkdir(parents=True, exist_ok=True)
    probe.write_text("written to see whether it can be")
    probe.unlink()
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
