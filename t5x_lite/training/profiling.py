"""Profiles some training steps, from a given one on or on a signal."""

import contextlib
import itertools
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath

from t5x_lite.training import trace_summary
from t5x_lite.training.goodput import Clock

SIGNAL = signal.SIGUSR1
_COUNT = 3


class Profile:
  """Asks for a profile of some steps: from a given one on, or on SIGUSR1."""

  def __init__(self, step: int | None = None, count: int = _COUNT):
    """Asks for `count` steps from `step` on; None: only on the signal."""
    self._step, self.count = step, count
    self._signalled = False

  @classmethod
  def parse(cls, text: str | None) -> "Profile":
    """Parses "STEP:COUNT".

    Raises:
      ValueError: it is not two numbers of at least 1.
    """
    if text is None:
      return cls()
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or not all(map(int, match.groups())):
      raise ValueError(
        f"--profile={text} must be STEP:COUNT, two numbers of at least 1: "
        f"--profile=100:{_COUNT} profiles steps 100 to {99 + _COUNT}"
      )
    return cls(*map(int, match.groups()))

  @contextlib.contextmanager
  def listening(self) -> Iterator["Profile"]:
    """Meanwhile, SIGUSR1 requests a profile instead of ending the process."""
    previous = signal.signal(SIGNAL, self._note)
    # Library code must not see its system calls fail.
    signal.siginterrupt(SIGNAL, False)
    try:
      yield self
    finally:
      signal.signal(SIGNAL, previous)

  def _note(self, number: int, frame: Any) -> None:
    del number, frame
    self._signalled = True

  def due(self, step: int) -> bool:
    """Returns whether a profile begins with a step; forgets a signal."""
    signalled, self._signalled = self._signalled, False
    return signalled or step == self._step


class Profiler:
  """Traces the steps that are asked for, into RUN/profile/.

  The trace is for xprof and TensorBoard (.xplane.pb) and for Perfetto
  (.trace.json.gz). Each of several processes traces its own devices.
  """

  def __init__(
    self,
    profile: Profile,
    model_dir: str,
    *,
    program: jax.stages.Compiled,
    clock: Clock,
    settle: Callable[[], None],
    say: Callable[[str], None],
  ):
    """Traces nothing yet.

    Args:
      profile: the steps that are asked for.
      model_dir: the run's directory.
      program: the compiled training step.
      clock: the run's clock.
      settle: waits for the steps in flight.
      say: prints a line for the user, in process 0.
    """
    self._profile, self._program = profile, program
    self._model_dir, self._clock = model_dir, clock
    self._settle, self._say = settle, say
    self._folder: epath.Path | None = None
    self._steps = range(0)

  def __enter__(self) -> "Profiler":
    return self

  def __exit__(self, *error) -> None:
    if self._folder is not None:
      self._folder = None
      jax.profiler.stop_trace()

  def before(self, step: int) -> None:
    """Starts a trace, if that is due before a step."""
    if self._folder is None and self._profile.due(step):
      self._settle()
      with self._clock("profile"):
        self._start(step)

  def after(self, step: int, *, last: bool = False) -> None:
    """Ends a trace, if that is due after a step, and says what is in it.

    Args:
      step: the step.
      last: whether there is no further step.
    """
    if self._folder is None or not (last or step == self._steps[-1]):
      return
    self._settle()
    folder, self._folder = self._folder, None
    with self._clock("profile"):
      jax.profiler.stop_trace()
      if jax.process_index() == 0:
        self._say(
          f"profile of steps {self._steps.start} to {step}: {folder}, for "
          "xprof, TensorBoard or ui.perfetto.dev"
        )
        (path,) = folder.glob("plugins/profile/*/*.xplane.pb")
        found = trace_summary.read(str(path), self._program.as_text())
        lines = ["  no operations in it"] if found is None else found.lines()
        self._say("\n".join(lines))

  def _start(self, step: int) -> None:
    # Processes of one machine would write one file.
    several = jax.process_count() > 1
    end = f"_process_{jax.process_index()}" if several else ""
    names = (f"profile/step_{step}{end}{n}" for n in _numbered())
    folders = (epath.Path(self._model_dir) / name for name in names)
    self._folder = next(path for path in folders if not path.exists())
    self._steps = range(step, step + self._profile.count)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # Python's calls would fill the trace.
    jax.profiler.start_trace(str(self._folder), profiler_options=options)


def _numbered() -> Iterator[str]:
  """Yields endings of names: none, _2, _3 and so on."""
  yield ""
  yield from (f"_{number}" for number in itertools.count(2))
