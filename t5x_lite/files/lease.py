"""Holds a file by renewing it, where the file system has no locks.

The holder writes who it is, and the time, every `BEAT` seconds. A lease that is
`EXPIRES` seconds old is over, as after a kill or a power failure. Who finds a
younger one waits for a sign of life: a renewal, or that age. A holder that
cannot renew its lease ends two beats before that. Clocks of machines that share
a run must agree to within some seconds, as they do by NTP.

Object stores cannot create a file only if there is none. Of two that start at
the same time, the last to write has the lease: each reads it again before it
goes on, and whenever it renews it. One that has lost its lease ends at once,
since whatever it wrote then would be among another's files.
"""

import contextlib
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from absl import logging
from etils import epath

from t5x_lite.files import disk, json_text

EXPIRES = 60.0  # seconds without a renewal
BEAT = 10.0  # seconds between renewals
SETTLE = 2.0  # seconds after which two that started together see one another
_POLL = 0.1  # of BEAT
# Of each lease: a store's client may know the size of an older one for seconds,
# and would read a part of a longer one.
_BYTES = 512


class Taken(Exception):
  """Says who holds a lease."""


@contextlib.contextmanager
def held(path: epath.Path, holder: str, *, wait: bool) -> Iterator[None]:
  """Holds a lease.

  Args:
    path: its file.
    holder: a description of this process, for others.
    wait: whether to wait for another holder's end.

  Raises:
    Taken: another process holds it, and `wait` is False.
  """
  own = {"id": uuid.uuid4().hex, "holder": holder}
  while True:
    _await_end(path, wait)
    begun = time.monotonic()
    _renew(path, own)
    time.sleep(SETTLE)
    found = _read(path)
    if found is not None and found["id"] == own["id"]:
      break
    if not wait:
      raise Taken(found["holder"] if found else "another process")
  keeper = _Keeper(path, own, begun)
  threads = [
    threading.Thread(target=work, daemon=True)
    for work in (keeper.renew, keeper.watch)
  ]
  for thread in threads:
    thread.start()
  try:
    yield
  finally:
    keeper.ended.set()
    for thread in threads:
      thread.join()
    found = _read(path)
    if found is not None and found["id"] == own["id"]:
      path.unlink(missing_ok=True)


def _await_end(path, wait):
  """Returns once nobody holds the lease."""
  first = found = _read(path)
  while found is not None and time.time() - found["time"] < EXPIRES:
    if found != first and not wait:
      raise Taken(found["holder"])
    if found is first:
      logging.warning(
        "%s is held by %s: waiting up to %.0f s for a sign of life",
        path.parent, found["holder"], EXPIRES,
      )  # fmt: skip
    time.sleep(_POLL * BEAT)
    found = _read(path)


class _Keeper:
  """Renews a lease until it is to end, and ends the process if it is lost.

  Attributes:
    ended: set when the lease is to end.
  """

  def __init__(self, path, own, renewed):
    self._path, self._own = path, own
    self._renewed = renewed  # the time of the last renewal, at its beginning
    self.ended = threading.Event()

  def renew(self):
    """Renews the lease every `BEAT` seconds."""
    while not self.ended.wait(BEAT):
      begun = time.monotonic()
      try:
        found = _read(self._path)
        if found is None or found["id"] != self._own["id"]:
          _end(f"{self._path} was taken over or removed")
          return
        _renew(self._path, self._own)
        self._renewed = begun
      except Exception as error:  # Of any store's client; it may be back soon.
        logging.warning("cannot renew %s: %s", self._path, error)

  def watch(self):
    """Ends the process before others take the lease for over.

    It has its own thread, which touches no file: a renewal may block for long.
    """
    most = EXPIRES - 2 * BEAT
    while not self.ended.wait(_POLL * BEAT):
      if time.monotonic() - self._renewed > most:
        _end(f"{self._path} could not be renewed for {most:.0f} s")
        return


def _end(reason):
  print(
    f"t5x_lite: error: {reason}: ends, as another process may write there now",
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)


def _read(path) -> dict[str, Any] | None:
  if not path.exists():
    return None
  try:
    found = json.loads(path.read_text())
    return found if {"id", "holder", "time"} <= found.keys() else None
  except FileNotFoundError:  # Removed just now.
    return None
  except (ValueError, AttributeError):  # flock's, or none of ours.
    return None


def _renew(path, own):
  text = json_text.dumps(own | {"time": time.time()})
  disk.write_text(path, text.ljust(_BYTES))
