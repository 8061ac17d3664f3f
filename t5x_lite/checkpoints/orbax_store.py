"""Writes and reads a run's steps with Orbax; the only file that imports it.

    1000/
      params/, state/    one item each: arrays by name, in Orbax's format
      hosts/             what each process writes itself (`HostFiles`)

This is Orbax's first interface. Its next one, v1, is to become the top level of
the package, and is left alone until then: in Orbax 0.12 it still changes names
between releases (`save_pytree`, `save`), and a step needs as much code there:
contexts in place of handlers.
"""

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import jax
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from t5x_lite.checkpoints import orbax_noise

orbax_noise.silence()

_HOSTS = "hosts"


class HostFiles(Protocol):
  """Describes what a process writes in addition to the arrays."""

  def start(self, directory: epath.Path) -> Callable[[], None]:
    """Writes what cannot wait; returns what writes the rest."""
    ...


class Writer:
  """Saves steps in the background, and deletes those that are not retained.

  Args:
    folder: the folder of checkpoints.
    items: the names of the items that steps have.
    retained: returns those of the steps given to it that are kept.
  """

  def __init__(
    self,
    folder: epath.Path,
    items: Sequence[str],
    retained: Callable[[Sequence[int]], Collection[int]],
  ) -> None:
    options = ocp.CheckpointManagerOptions(
      # The iterator is saved into this directory before `save` returns.
      async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
      cleanup_tmp_directories=True,
      lightweight_initialize=True,  # A damaged old step must not stop a run.
      preservation_policy=_Retained(retained),
      save_root_metadata=False,
    )
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for item in items:
      registry.add(item, ocp.args.PyTreeSave, _array_handler())
    registry.add(_HOSTS, _HostsSave, _HostsHandler())
    self._manager = _Manager(folder, options=options, handler_registry=registry)

  def save(
    self,
    step: int,
    items: Mapping[str, Mapping[str, jax.Array]],
    files: HostFiles,
  ) -> None:
    """Starts to save one step; every process must call this.

    Args:
      step: names the directory.
      items: {item: {name: array}}; an array is not copied, but may be donated
        once this returns.
      files: what this process writes itself.
    """
    trees = {
      item: ocp.args.PyTreeSave(traverse_util.unflatten_dict(leaves, sep="/"))
      for item, leaves in items.items()
    }
    args = ocp.args.Composite(**{_HOSTS: _HostsSave(files)}, **trees)
    self._manager.save(step, args=args, force=True)

  def wait(self) -> None:
    """Waits for the save in progress and raises its error, if any."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Stops the background threads."""
    self._manager.close()


def read(
  path: epath.Path, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, Any]:
  """Reads some of the arrays of one item of a step.

  Args:
    path: the directory of the item.
    wanted: {name: shape and dtype as saved, and the sharding to read it onto}.

  Returns:
    {name: array}; with damaged metadata, names may be missing and values may be
    something else.
  """
  restore_args = {
    name: ocp.ArrayRestoreArgs(
      restore_type=jax.Array,
      sharding=leaf.sharding,
      global_shape=leaf.shape,
      dtype=leaf.dtype,
    )
    for name, leaf in wanted.items()
  }
  tree = _array_handler().restore(
    path,
    args=ocp.args.PyTreeRestore(
      traverse_util.unflatten_dict(dict.fromkeys(wanted, 0), sep="/"),
      restore_args=traverse_util.unflatten_dict(restore_args, sep="/"),
      partial_restore=True,
    ),
  )
  return traverse_util.flatten_dict(tree, sep="/")


def steps(folder: epath.Path) -> list[int]:
  """Lists the complete steps, damaged ones included."""
  names = ocp.path.step.standard_name_format()
  return sorted(found.step for found in names.find_all(folder))


def remove_unfinished(folder: epath.Path, step: int) -> None:
  """Deletes the files of a failed save, to free the disk space."""
  # Orbax raises when the first writer fails, while others are still writing.
  for thread in threading.enumerate():
    if type(thread).__module__.startswith("orbax."):
      threading.Thread.join(thread)
  for path in folder.glob(f"{step}.orbax-checkpoint-tmp*"):
    with contextlib.suppress(OSError):  # The next run tries again.
      path.rmtree()


class _Manager(ocp.CheckpointManager):
  """Asks nothing about preemption, which training does itself.

  With old steps whose time it has not read (`lightweight_initialize`), Orbax
  fails with a TypeError once it has saved for a preemption.
  """

  def reached_preemption(self, step: int) -> bool:
    del step
    return False


class _Retained:
  """Turns a function of steps into a preservation policy of Orbax's."""

  def __init__(self, retained: Callable[[Sequence[int]], Collection[int]]):
    self._retained = retained

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    del context
    found = [checkpoint.step for checkpoint in checkpoints]
    kept = self._retained(found)
    return [step in kept for step in found]


class _HostsSave(ocp.args.CheckpointArgs):
  """Holds what this process writes itself."""

  def __init__(self, files: HostFiles):
    self.files = files


class _HostsHandler(ocp.AsyncCheckpointHandler):
  """Writes `HostFiles`: its start right away, the rest in the background."""

  async def async_save(
    self, directory: epath.Path, args: _HostsSave
  ) -> list[ocp.future.Future]:
    own = directory / f"process_{jax.process_index()}"
    own.mkdir(parents=True, exist_ok=True)
    finish = args.files.start(own)

    async def finish_later() -> None:
      finish()

    return [ocp.future.CommitFutureAwaitingContractedSignals(finish_later())]

  def save(self, directory: epath.Path, *args, **kwargs) -> None:
    raise NotImplementedError("only async_save is implemented")

  def restore(self, directory: epath.Path, *args, **kwargs) -> None:
    raise NotImplementedError("the files are read as they are")


ocp.args.register_with_handler(_HostsHandler, for_save=True)(_HostsSave)


def _array_handler() -> ocp.PyTreeCheckpointHandler:
  """Returns Orbax's array handler.

  No compression: it makes float32 weights only 8% smaller, in twice the time.
  No pinned memory: so digests and files share one copy on the host (JAX caches
  it with the array). A single process does not write in replica-parallel, which
  would first slice every replicated array on the devices.
  """
  arrays = ocp.type_handlers.ArrayHandler(
    use_replica_parallel=jax.process_count() > 1
  )
  return ocp.PyTreeCheckpointHandler(
    use_compression=False,
    enable_pinned_host_transfer=False,
    type_handler_registry=ocp.type_handlers.create_type_handler_registry(
      (jax.Array, arrays)
    ),
  )
