"""Sends a run's records to experiment trackers: Weights & Biases and Trackio.

Neither needs a network: records stay on this machine unless the user's own
settings, WANDB_MODE=online or TRACKIO_SPACE_ID, say otherwise.

RUN/trackers.json   the ids of the tracked runs, for a resumed run to go on with
RUN/wandb/          what `wandb sync` uploads
"""

import dataclasses
import importlib.util
import os
import secrets
from collections.abc import Mapping
from typing import Any, ClassVar

from etils import epath

from t5x_lite import checks
from t5x_lite.files import disk, json_text

_IDS = "trackers.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tracker:
  """Sends the records of a run somewhere; a base class.

  Attributes:
    project: the project that the run belongs to.
  """

  package: ClassVar[str] = ""

  project: str = "t5x_lite"

  def __post_init__(self):
    checks.fields(self)

  def check(self) -> None:
    """Checks that the tracker can be used.

    Raises:
      ValueError: its package is not installed.
    """
    if importlib.util.find_spec(self.package) is None:
      raise ValueError(
        f"Run.trackers has {type(self).__name__}, whose package is not "
        f"installed: pip install {self.package}"
      )

  def open(self, model_dir: str) -> Any:
    """Starts the tracked run of a directory, or goes on with it.

    Returns:
      A sink (training/sinks.py).

    Raises:
      ValueError: the tracker refuses.
    """
    raise NotImplementedError


class Wandb(Tracker):
  """Weights & Biases, offline unless $WANDB_MODE says otherwise."""

  package = "wandb"

  def open(self, model_dir: str) -> "_WandbRun":
    """Starts or resumes the tracked run; its files are in RUN/wandb."""
    import wandb

    os.environ.setdefault("WANDB_MODE", "offline")
    run_id = _run_id(model_dir, self.package)
    try:
      run = wandb.init(
        project=self.project,
        id=run_id,
        name=epath.Path(model_dir).name,
        dir=None if "://" in model_dir else model_dir,
        resume="allow",
        reinit="create_new",
        config=_configuration(model_dir),
      )
    except wandb.Error as error:
      why = str(error).partition("\n")[0]
      raise ValueError(
        f"wandb cannot start: {why} (WANDB_MODE=offline needs no account)"
      ) from None
    return _WandbRun(run)


class _WandbRun:
  def __init__(self, run: Any):
    self._run = run
    # wandb's own steps never go back, as those of a resumed run do.
    run.define_metric("*", step_metric="step")

  def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
    self._run.log({"step": step, **_named(kind, values)})

  def close(self) -> None:
    self._run.finish()


class Trackio(Tracker):
  """Trackio, on this machine unless $TRACKIO_SPACE_ID names a space."""

  package = "trackio"

  def open(self, model_dir: str) -> "_TrackioRun":
    """Starts or resumes the tracked run; `trackio show` shows it."""
    import trackio

    return _TrackioRun(
      trackio.init(
        self.project,
        _run_id(model_dir, self.package),
        config=_configuration(model_dir),
        resume="allow",
        embed=False,
        auto_log_cpu=False,
        auto_log_gpu=False,
      )
    )


class _TrackioRun:
  def __init__(self, run: Any):
    self._run = run

  def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
    self._run.log(_named(kind, values), step=step)

  def close(self) -> None:
    self._run.finish()


def _named(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
  return {f"{kind}/{name}": value for name, value in values.items()}


def _run_id(model_dir: str, package: str) -> str:
  """Returns the id of a directory's tracked run; makes one if it has none."""
  path = epath.Path(model_dir) / _IDS
  ids = json_text.read(path) if path.exists() else {}
  if package not in ids:
    ids[package] = f"{epath.Path(model_dir).name}-{secrets.token_hex(4)}"
    disk.write_text(path, json_text.dumps(ids) + "\n")
  return ids[package]


def _configuration(model_dir: str) -> dict[str, Any]:
  """Returns the settings that `t5x_lite train` has recorded, if it has."""
  path = epath.Path(model_dir) / "run.json"
  if not path.exists():
    return {}
  return json_text.read(path, "configuration")["configuration"]
