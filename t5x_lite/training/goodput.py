"""Measures goodput: the share of a run's time that goes into training steps."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from t5x_lite.files.slow import announced

# What a run's time goes into, and what is said of it if it takes long. "steps"
# are training steps, and all that has no name of its own; "restart" is the time
# from the command's start to the first step, and work that a killed start had
# done after the checkpoint that this one resumed from.
STATES = {
  "steps": "training",
  "compile": "compiling",
  "data_wait": "waiting for data",
  "checkpoint": "writing a checkpoint",
  "evaluation": "evaluating",
  "samples": "generating samples",
  "profile": "writing a profile",
  "restart": "starting",
}


class Clock:
  """Divides a run's time, over all its starts, among `STATES`.

      clock = Clock()  # State: restart.
      clock.switch("steps")
      with clock("evaluation"):
        ...

  The device computes while the host goes on: whoever opens a state waits first
  for the steps in flight, whose time is not that state's. A block that takes
  long is announced.
  """

  def __init__(self):
    self._seconds = dict.fromkeys(STATES, 0.0)
    self._state, self._since = "restart", time.perf_counter()
    self._saved_seconds = 0.0

  def switch(self, state: str, *, charge: str | None = None) -> str:
    """Enters a state, and returns the one before.

    Args:
      state: the new state.
      charge: the state to charge the time since the last switch to; by default
        the state before.
    """
    before, now = self._state, time.perf_counter()
    self._seconds[charge or before] += now - self._since
    self._state, self._since = state, now
    return before

  @contextlib.contextmanager
  def __call__(
    self, state: str, *, hidden: Callable[[], bool] = lambda: False
  ) -> Iterator[None]:
    """Charges the time of a block to a state.

    Args:
      state: the state.
      hidden: tells, at the end of the block, whether the device has still been
        computing steps; then the block has cost nothing and counts as steps.
    """
    before = self.switch(state)
    try:
      with announced(STATES[state]):
        yield
    finally:
      self.switch(before, charge="steps" if hidden() else state)

  @property
  def run_seconds(self) -> float:
    """Returns the time of the run so far."""
    return sum(self.seconds().values())

  @property
  def training_seconds(self) -> float:
    """Returns the time of steps and of waiting for their data."""
    seconds = self.seconds()
    return seconds["steps"] + seconds["data_wait"]

  def seconds(self) -> dict[str, float]:
    """Returns the time of each state so far."""
    self.switch(self._state)
    return dict(self._seconds)

  def fractions(self) -> dict[str, float]:
    """Returns {"goodput", "compile_fraction", ...}, and "run_seconds"."""
    seconds = self.seconds()
    total = sum(seconds.values())
    named = {
      "goodput" if state == "steps" else f"{state}_fraction": value / total
      for state, value in seconds.items()
    }
    return {**named, "run_seconds": total}

  def describe(self) -> str:
    """Returns a line with the time and the shares that are not zero."""
    times = self.seconds()
    total = sum(times.values())
    shares = ", ".join(
      f"{state.replace('_', ' ')} {seconds / total:.1%}"
      for state, seconds in times.items()
      if seconds / total >= 5e-4
    )
    return f"{total:,.0f} s in all: {shares}"

  def restore(self, saved: Mapping[str, float]) -> None:
    """Adds the times that `seconds` gave when a checkpoint was saved."""
    self._saved_seconds = sum(saved.values())
    for state, seconds in saved.items():
      self._seconds[state] += seconds

  def lose(self, recorded_seconds: float) -> None:
    """Counts earlier starts' work after the checkpoint as restart.

    Args:
      recorded_seconds: the `run_seconds` of their last record. What they did
        later has left no trace, nor has a start without any record.
    """
    lost = recorded_seconds - self._saved_seconds
    self._seconds["restart"] += max(0.0, lost)
