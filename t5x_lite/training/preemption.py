"""Watches for Google Cloud's notice that this machine will be taken away.

A spot machine has 30 s from the notice to its end, one under maintenance up to
an hour.
"""

import threading
from collections.abc import Callable

from absl import logging

from t5x_lite.devices import google_cloud

_POLL_SECONDS = 5


class Watch:
  """Asks the metadata server until there is a notice, and calls a function.

  A notice that stands at the start is ignored: the run before this one has
  stopped for it, and this one uses the time that is left.
  """

  def __init__(self, on_notice: Callable[[], None]):
    self._on_notice = on_notice
    self._cancelled = threading.Event()
    if google_cloud.is_here():
      # A daemon: a question that is under way does not hold up the exit.
      threading.Thread(target=self._run, daemon=True).start()

  def cancel(self) -> None:
    """Stops asking."""
    self._cancelled.set()

  def _run(self) -> None:
    old = _notices()
    while not self._cancelled.wait(_POLL_SECONDS):
      new = _notices() - old
      if new and not self._cancelled.is_set():
        logging.warning(
          "Google Cloud is about to take this machine away (%s): training "
          "stops as on SIGTERM", ", ".join(sorted(new)),
        )  # fmt: skip
        self._on_notice()
        return


def _notices() -> set[str]:
  """Returns what the metadata server announces now."""
  found = set()
  event = google_cloud.metadata("maintenance-event") or ""
  if event.startswith("TERMINATE"):  # A live migration needs no stop.
    found.add(f"maintenance-event: {event}")
  if google_cloud.metadata("preempted") == "TRUE":
    found.add("preempted: TRUE")
  return found
