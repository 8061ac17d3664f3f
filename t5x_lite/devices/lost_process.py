"""Ends this process when another one of its run is lost.

If a computation fails because another process is gone, this one ends at once
with one line and status 69, EX_UNAVAILABLE of sysexits.h. If a computation
waits instead, or process 0 is the one that is lost, JAX's coordination service
aborts the process (status 134) after the time that it allows for a missing
heartbeat; the abort is in C++, and no handler of Python's runs.
"""

import os
import re
import sys

import jax

STATUS = os.EX_UNAVAILABLE

# In the words of Gloo, NCCL and JAX's coordination service, after XLA's code.
_LOST = re.compile(
  "(?-i:[A-Z_]+: ).*(closed by peer|reset by peer|remote process exited|"
  "broken pipe|socket closed|heartbeat)",
  re.IGNORECASE,
)


def end_if_lost(error: BaseException | None) -> None:
  """Ends this process if an error says that another one is lost.

  It ends without the usual cleaning up, which would wait for the others.
  """
  # A program that is run at once, without a queue, raises ValueError.
  if not isinstance(error, jax.errors.JaxRuntimeError | ValueError):
    return
  reason = str(error).partition("\n")[0]
  if not _LOST.match(reason) or jax.process_count() == 1:
    return
  print(
    f"t5x_lite: another process of this run has ended ({reason}), so this one "
    "ends too: the same command in all of them goes on from the newest "
    "checkpoint",
    file=sys.stderr,
  )
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(STATUS)
