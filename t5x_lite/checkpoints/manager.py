"""Saves, restores and deletes the checkpoints of a run; skips damaged ones.

    RUN/checkpoints/
      900.corrupt-1/    did not match its digests: set aside, never deleted
      1000/             complete: renamed once it is written (saved_step.py)
      1100.orbax-checkpoint-tmp/    being written, or left by a killed run

Saving is asynchronous: `save` returns once the arrays are copied to the host,
so the next step may donate them. Digests, files and the rename follow in the
background; an error there is raised by the next `save`, `wait` or `close`.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from t5x_lite.checkpoints import retention, saved_step
from t5x_lite.checkpoints.digests import Damaged
from t5x_lite.checkpoints.spec import Retention
from t5x_lite.files import disk, trees
from t5x_lite.files.slow import announced

Tree = Any
Result = TypeVar("Result")

# What TensorStore and Orbax say when somebody removes files of theirs.
_VANISHED = ("NOT_FOUND", "missing .zarray")


class Checkpoints:
  """Manages the checkpoints of one run, in `model_dir`/checkpoints.

  With `keep`, checkpoints can be saved, by one run at a time. Without it, they
  are only read, and nothing in the directory changes.

      with Checkpoints(model_dir, run.keep) as checkpoints:
        restored = checkpoints.restore(abstract_state, iterator)
        ...
        checkpoints.save(step, state, iterator, {"loss": 2.5})

  Attributes:
    directory: the folder of checkpoints.
    restored_step: the step of the last `restore` or `restore_params`.

  Raises:
    ValueError: `model_dir` cannot be written to.
  """

  def __init__(
    self, model_dir: epath.PathLike, keep: Retention | None = None
  ) -> None:
    self.directory = folder_of(model_dir)
    self.restored_step: int | None = None
    self._keep = keep
    self._manager: ocp.CheckpointManager | None = None
    self._best = retention.Best(keep or Retention())
    self._verified = retention.NewestVerified()
    self._own_steps: set[int] = set()  # saved or restored by this run
    self._saving: int | None = None
    if keep is not None:
      disk.check_writable(self.directory)
      self._folder = disk.HeldFolder(self.directory)

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *error) -> None:
    self.close()

  @property
  def latest_step(self) -> int | None:
    """Returns the newest complete step, unverified, or None."""
    return max(_steps(self.directory), default=None)

  def save(
    self,
    step: int,
    state: Tree,
    iterator: saved_step.SavesItself | None = None,
    metrics: Mapping[str, float] | None = None,
  ) -> None:
    """Starts to save one step; every process must call this.

    Args:
      step: the number of updates made; names the directory. Saving a step
        twice does nothing.
      state: a pytree of arrays with `params`, a nested dict.
      iterator: the data iterator; it is saved before this returns.
      metrics: this step's metrics, for `Retention.metric`; NaN is never best.

    Raises:
      ValueError: this or the previous save failed, for lack of disk space or
        permission; earlier checkpoints are intact. Or another run has saved
        this step.
    """
    assert self._keep is not None, "Checkpoints without keep are read only"
    self.wait()
    if step in self._own_steps:
      return
    if step in _steps(self.directory):
      raise ValueError(
        f"checkpoint {self.directory / str(step)} already exists, and this run"
        " did not start from it: use another --model_dir"
      )
    self._check_there()
    metrics = {name: float(value) for name, value in (metrics or {}).items()}
    with self._one_line_errors(step):
      if self._manager is None:
        self._best.add_saved(self.directory, _steps(self.directory))
        policy = retention.policy(self._keep, self._best, self._verified)
        self._manager = _manager(self.directory, policy)
      self._best.add(step, metrics)
      disk.check_room(self.directory, state)
      args = saved_step.save_args(step, state, iterator, metrics)
      self._manager.save(step, args=args, force=True)
    self._saving = step
    self._own_steps.add(step)

  def confirm(self, step: int) -> None:
    """Notes that the parameters of a step gave a finite loss in the next one.

    The newest checkpoint at or before this step is kept, whatever `Retention`
    says.
    """
    self._verified.step = step

  def wait(self) -> None:
    """Waits for the save in progress and raises its error, if any."""
    if self._manager is not None:
      with self._one_line_errors(self._saving):
        self._manager.wait_until_finished()
      self._saving = None

  def close(self) -> None:
    """Waits for the save in progress and stops the background threads."""
    try:
      self.wait()
    finally:
      if self._manager is not None:
        self._manager.close()
        self._manager = None
      if self._keep is not None:
        self._folder.close()

  @announced("reading the checkpoint")
  def restore(
    self,
    abstract_state: Tree,
    iterator: saved_step.SavesItself | None = None,
    step: int | None = None,
  ) -> tuple[Tree, int] | None:
    """Restores the newest undamaged step.

    Args:
      abstract_state: the tree to return; its leaves give the shape, dtype and
        sharding (None: the first device) of the arrays returned, however they
        were saved.
      iterator: the data iterator to restore; it must be the same pipeline.
      step: restore this step only.

    Returns:
      (state, step), or None if there is no checkpoint at all.

    Raises:
      ValueError: all checkpoints are damaged, or the state does not fit.
    """
    self.wait()
    if step is None and self.latest_step is None:
      return None
    wanted = trees.named_leaves(abstract_state)

    def read(path: epath.Path) -> Tree:
      manifest = saved_step.read_manifest(path)
      saved_step.check_fit(path, manifest["leaves"], wanted)
      leaves = saved_step.read_leaves(path, manifest, wanted)
      if iterator is not None:
        saved_step.restore_iterator(path, manifest, iterator)
      return trees.with_leaves(abstract_state, leaves)

    # Only a training run sets damaged steps aside: it will save them again.
    set_aside = self._keep is not None
    state, step = newest_sound(self.directory, read, step, set_aside=set_aside)
    self.restored_step = step
    self._own_steps.add(step)
    return state, step

  @announced("reading the parameters")
  def restore_params(self, abstract_params: Tree, step: int | None = None):
    """Restores only the parameters, for evaluation and inference.

    Takes the newest undamaged step, or `step`, and changes nothing on disk.
    Floats are cast to the dtypes of `abstract_params`.

    Raises:
      ValueError: there is no checkpoint, all are damaged, or the parameters do
        not fit the model or are not finite.
    """
    self.wait()
    wanted = trees.named_leaves({"params": abstract_params})

    def read(path: epath.Path) -> Tree:
      manifest = saved_step.read_manifest(path)
      saved = saved_step.params_of(manifest)
      saved_step.check_fit(path, saved, wanted, any_float=True)
      leaves = saved_step.read_leaves(path, manifest, wanted)
      saved_step.check_finite(path, leaves)
      return trees.with_leaves({"params": abstract_params}, leaves)

    state, self.restored_step = newest_sound(self.directory, read, step)
    return state["params"]

  def _check_there(self) -> None:
    """Raises ValueError if somebody removed the folder.

    Orbax and TensorStore would make it again, with half a checkpoint in it.
    """
    if not self._folder.is_there():
      for folder in (self.directory, self.directory.parent):
        with contextlib.suppress(OSError, ValueError):  # Only if empty.
          folder.rmdir()
      raise ValueError(
        f"{self.directory} was removed while the run was writing to it: stops, "
        "and writes nothing more"
      ) from None

  @contextlib.contextmanager
  def _one_line_errors(self, step: int | None):
    """Turns a disk error into a one-line ValueError, and cleans up."""
    try:
      yield
    except Exception as error:
      manager, self._manager, self._saving = self._manager, None, None
      self._own_steps.discard(step)
      with contextlib.suppress(Exception):  # close raises the same error again.
        manager.close()
      if jax.process_index() == 0:
        _remove_unfinished(self.directory, step)
      self._check_there()
      reason = disk.reason(error)
      if isinstance(error, FileNotFoundError) or any(
        words in str(error) for words in _VANISHED
      ):
        reason = "its files were removed while it was written"
      if reason is None:
        raise
      raise ValueError(
        f"checkpoint of step {step} could not be written to {self.directory}:"
        f" {reason}; earlier checkpoints are intact"
      ) from None


def folder_of(model_dir: epath.PathLike) -> epath.Path:
  """Returns the folder of a run's checkpoints."""
  return epath.Path(model_dir).expanduser().absolute() / "checkpoints"


def newest_sound(
  folder: epath.Path,
  read: Callable[[epath.Path], Result],
  step: int | None = None,
  *,
  set_aside: bool = False,
) -> tuple[Result, int]:
  """Reads the newest undamaged step; returns the result and the step.

  Args:
    folder: the folder of checkpoints.
    read: reads one step's directory, or raises Damaged.
    step: read this step only.
    set_aside: whether to rename damaged steps, so that training can save them
      again when it reaches them.

  Raises:
    ValueError: there is no undamaged step.
  """
  steps = _steps(folder)
  if not steps:
    raise ValueError(f"no checkpoint in {folder}: run train first")
  if step is not None and step not in steps:
    have = ", ".join(map(str, steps))
    raise ValueError(f"no checkpoint of step {step} in {folder}; have {have}")
  damaged: dict[int, str] = {}
  for number in reversed(steps) if step is None else [step]:
    try:
      result = read(folder / str(number))
    except Damaged as error:
      damaged[number] = str(error)
      continue
    # Damaged steps are set aside only once an undamaged one is found. With all
    # of them set aside, the next start would find an empty folder and train
    # from scratch.
    for bad, reason in damaged.items():
      path = folder / str(bad)
      end = f"set aside as {_set_aside(path).name}" if set_aside else "skipped"
      logging.warning(
        "checkpoint %s is damaged (%s): %s; step %d is restored instead",
        path, reason, end, number,
      )  # fmt: skip
    return result, number
  if step is None and _steps(folder)[-1:] > steps[-1:]:
    # A run in progress has since deleted these steps and saved a newer one.
    return newest_sound(folder, read, set_aside=set_aside)
  reasons = [f"step {n}: {reason}" for n, reason in damaged.items()]
  if len(reasons) > 3:
    reasons[2:] = [f"and {len(reasons) - 2} more"]
  raise ValueError(
    f"no undamaged checkpoint in {folder} ({'; '.join(reasons)}): restore a"
    " backup, or move them away to start from scratch"
  )


def _manager(folder: epath.Path, policy: Any) -> ocp.CheckpointManager:
  """Returns Orbax's manager, which we use to save and delete, not to read."""
  options = ocp.CheckpointManagerOptions(
    # The iterator is saved into this directory before `save` returns.
    async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    cleanup_tmp_directories=True,
    lightweight_initialize=True,  # A damaged old step must not stop a run.
    preservation_policy=policy,
    save_root_metadata=False,
  )
  return ocp.CheckpointManager(
    folder, options=options, handler_registry=saved_step.handlers()
  )


def _steps(folder: epath.Path) -> list[int]:
  """Lists the complete steps, damaged ones included."""
  names = ocp.path.step.standard_name_format()
  return sorted(found.step for found in names.find_all(folder))


def _set_aside(path: epath.Path) -> epath.Path:
  """Renames a damaged step so that it is no longer listed as a step."""
  number = 1
  while (target := path.with_name(f"{path.name}.corrupt-{number}")).exists():
    number += 1
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f"set aside {path}: name chosen")
  if jax.process_index() == 0:
    path.rename(target)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f"set aside {path}: renamed")
  return target


def _remove_unfinished(folder: epath.Path, step: int) -> None:
  """Deletes the files of a failed save, to free the disk space."""
  # Orbax raises when the first writer fails, while others are still writing.
  for thread in threading.enumerate():
    if type(thread).__module__.startswith("orbax."):
      threading.Thread.join(thread)
  for path in folder.glob(f"{step}.orbax-checkpoint-tmp*"):
    with contextlib.suppress(OSError):  # The next run tries again.
      path.rmtree()
