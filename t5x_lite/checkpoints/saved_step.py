"""Writes and reads the directory of one checkpoint step.

    1000/
      params/                 Orbax: the parameters, a plain nested dict
      state/                  Orbax: step and optimizer state
      hosts/process_0/        files of one process
        iterator/...          the data iterator's part, in its own format
        metrics.json
        manifest.json         names, shapes and digests of all the above

Everything read is checked against its digest; a mismatch raises `Damaged`.
"""

import concurrent.futures
import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from t5x_lite.checkpoints import digests, orbax_store
from t5x_lite.checkpoints.digests import Damaged
from t5x_lite.files import json_text, trees

Tree = Any

ITEMS = ("params", "state")  # `_by_item`

# Transient TensorStore errors: the storage fails, the checkpoint may be fine.
_TRANSIENT = ("DEADLINE_EXCEEDED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
              "UNAUTHENTICATED", "UNAVAILABLE")  # fmt: skip


class SavesItself(Protocol):
  """Describes a data iterator that saves and restores its own position."""

  def save(self, directory: epath.Path) -> None: ...
  def restore(self, directories: Sequence[epath.Path]) -> None: ...


def save(
  writer: orbax_store.Writer,
  step: int,
  state: Tree,
  iterator: SavesItself | None,
  metrics: Mapping[str, float],
) -> None:
  """Copies `state` to the host and starts to write the step."""
  leaves = {
    n: jnp.asarray(leaf) for n, leaf in trees.named_leaves(state).items()
  }
  for leaf in leaves.values():
    leaf.copy_to_host_async()
  files = _HostFiles(step, leaves, iterator, metrics)
  writer.save(step, _by_item(leaves), files)


def read_manifest(path: epath.Path) -> dict[str, Any]:
  """Reads a step's manifest and verifies this process's files.

  Returns:
    "leaves": {name: {"shape", "dtype", "digests"}}, merged over all processes;
    and the first process's "metrics" and "processes".

  Raises:
    Damaged: on all processes, if any of them finds damage.
  """
  manifest, reason = {}, ""
  try:
    manifest = _merged_manifest(path / "hosts")
    saved = manifest.get("step", path.name)  # The first releases lack it.
    if str(saved) != path.name:
      raise Damaged(f"it was saved as step {saved}")
  except Damaged as error:
    reason = str(error)
  _agree(reason)
  return manifest


def read_metrics(path: epath.Path) -> dict[str, float | None]:
  """Returns a step's metrics; a metric that was not finite is None.

  Returns {} if they cannot be read.
  """
  try:
    return json.loads((path / "hosts/process_0/metrics.json").read_text())
  except (OSError, ValueError):
    return {}


def read_leaves(
  path: epath.Path, manifest: Mapping[str, Any], wanted: Mapping[str, Any]
) -> dict[str, jax.Array]:
  """Reads the wanted leaves of a step onto their shardings and verifies them.

  Args:
    path: the step's directory.
    manifest: the result of `read_manifest`.
    wanted: {name: leaf with a dtype and a sharding}; arrays are cast to that
      dtype.

  Raises:
    Damaged: a leaf cannot be read, or does not match its digest.
  """
  leaves, reason = {}, ""
  try:
    for item, part in _by_item(wanted).items():
      leaves |= _read_item(path / item, manifest, part)
  except Exception as error:  # A flipped bit in metadata can raise anything.
    if _is_transient(error):
      raise
    reason = f"cannot be read: {_first_line(error)}"
  _agree(reason)
  saved = manifest["leaves"]
  for name, leaf in wanted.items():
    if name not in leaves:  # TensorStore has no empty arrays.
      nothing = np.zeros(saved[name]["shape"], saved[name]["dtype"])
      leaves[name] = jax.device_put(nothing, sharding_of(leaf))
  # One thread if there are several hosts: all must gather in the same order.
  workers = 1 if jax.process_count() > 1 else min(4, os.cpu_count() or 1)
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    sound = pool.map(
      lambda name: digests.matches(leaves[name], saved[name]["digests"]), wanted
    )
    bad = [name for name, ok in zip(wanted, sound, strict=True) if not ok]
  _agree(f"{bad[0]} does not match its digest" if bad else "")
  return {
    # astype only if the dtype differs: it compiles, and may copy.
    n: leaves[n] if leaves[n].dtype == w.dtype else leaves[n].astype(w.dtype)
    for n, w in wanted.items()
  }


def check_finite(path: epath.Path, leaves: Mapping[str, jax.Array]) -> None:
  """Raises a one-line ValueError if a leaf has NaN or infinite values."""
  are_finite = jax.jit(lambda xs: [jnp.isfinite(x).all() for x in xs])
  found = jax.device_get(are_finite(list(leaves.values())))
  bad = [name for name, ok in zip(leaves, found, strict=True) if not ok]
  if bad:
    raise ValueError(
      f"checkpoint {path} holds a model that has diverged: {bad[0]} is not "
      "finite; name an earlier step, if there is one"
    )


def restore_iterator(
  path: epath.Path, manifest: Mapping[str, Any], iterator: SavesItself
) -> None:
  """Restores a data iterator to its position when the step was saved.

  It is given the directories of all processes that saved, in order: there may
  be more or fewer processes now.

  Raises:
    ValueError: the data pipeline has changed.
  """
  directories = [
    directory
    for process in range(manifest["processes"])
    if (directory := path / f"hosts/process_{process}/iterator").exists()
  ]
  if not directories:
    raise ValueError(f"checkpoint {path} holds no data iterator")
  try:
    iterator.restore(directories)
  except ValueError:
    raise
  except Exception as error:
    raise ValueError(
      f"the data iterator in {path} does not fit this run's data:"
      f" {_first_line(error)}"
    ) from error


def params_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the parameters among the leaves of a manifest."""
  return {
    name: leaf
    for name, leaf in manifest["leaves"].items()
    if name.startswith("params/")
  }


def check_fit(
  path: epath.Path,
  saved: Mapping[str, Any],
  wanted: Mapping[str, Any],
  *,
  any_float: bool = False,
) -> None:
  """Raises a one-line ValueError if names, shapes or dtypes differ."""
  differences = describe_differences(saved, wanted, any_float=any_float)
  if differences:
    raise ValueError(
      f"checkpoint {path} does not fit this configuration (- missing in it, +"
      f" only in it): {differences}"
    )


def describe_differences(
  saved: Mapping[str, Any], wanted: Mapping[str, Any], *, any_float: bool
) -> str:
  """Lists differences: `-missing, +unexpected, name is [8], wanted [9]`."""
  found = trees.differences(
    {name: leaf.shape for name, leaf in wanted.items()},
    {name: leaf["shape"] for name, leaf in saved.items()},
  )
  for name in [name for name in wanted if name in saved]:
    dtypes = saved[name]["dtype"], str(wanted[name].dtype)
    floats = all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes)
    if dtypes[0] != dtypes[1] and not (any_float and floats):
      found.append(f"{name} is {dtypes[0]}, wanted {dtypes[1]}")
  return trees.listed(found)


def sharding_of(leaf: Any) -> jax.sharding.Sharding:
  """Returns the leaf's sharding; by default the first local device."""
  first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return getattr(leaf, "sharding", None) or first


@dataclasses.dataclass
class _HostFiles:
  """Writes the iterator right away, and the digests in the background."""

  step: int
  leaves: Mapping[str, jax.Array]
  iterator: SavesItself | None
  metrics: Mapping[str, float]

  def start(self, directory: epath.Path) -> Callable[[], None]:
    if self.iterator is not None:
      (directory / "iterator").mkdir(parents=True, exist_ok=True)
      self.iterator.save(directory / "iterator")
    # Copied now: the next step may reuse the arrays' memory after we return.
    shards = {n: digests.host_shards(leaf) for n, leaf in self.leaves.items()}
    shapes = {n: (leaf.shape, leaf.dtype) for n, leaf in self.leaves.items()}
    return functools.partial(self._finish, directory, shapes, shards)

  def _finish(self, directory, shapes, shards) -> None:
    (directory / "metrics.json").write_text(json_text.dumps(dict(self.metrics)))
    manifest = {
      "step": self.step,
      "processes": jax.process_count(),
      "files": digests.file_digests(directory),
      "leaves": {
        name: {
          "shape": list(shape),
          "dtype": str(dtype),
          "digests": digests.shard_digests(shards[name]),
        }
        for name, (shape, dtype) in shapes.items()
      },
    }
    digests.write_manifest(directory / "manifest.json", manifest)


def _by_item(leaves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Groups leaves by Orbax item, less empty ones: TensorStore has none."""
  items: dict[str, dict[str, Any]] = {}
  for name, leaf in leaves.items():
    if math.prod(leaf.shape):
      item = "params" if name.startswith("params/") else "state"
      items.setdefault(item, {})[name.removeprefix("params/")] = leaf
  return items


def _read_item(
  path: epath.Path, manifest: Mapping[str, Any], part: Mapping[str, Any]
) -> dict[str, jax.Array]:
  prefix = "params/" if path.name == "params" else ""
  saved = {name: manifest["leaves"][prefix + name] for name in part}
  stored = {
    name: jax.ShapeDtypeStruct(
      tuple(saved[name]["shape"]),
      jnp.dtype(saved[name]["dtype"]),
      sharding=sharding_of(leaf),
    )
    for name, leaf in part.items()
  }
  found = orbax_store.read(path, stored)
  for name in part:
    if not isinstance(found.get(name), jax.Array):  # By damaged metadata.
      raise ValueError(f"{prefix}{name} is not stored as an array")
  return {prefix + name: leaf for name, leaf in found.items()}


def _merged_manifest(hosts: epath.Path) -> dict[str, Any]:
  """Merges all processes' manifests and verifies this process's files."""
  merged = digests.read_manifest(hosts / "process_0" / "manifest.json")
  for process in range(1, merged["processes"]):
    other = digests.read_manifest(hosts / f"process_{process}/manifest.json")
    for name, leaf in other["leaves"].items():
      merged["leaves"][name]["digests"] |= leaf["digests"]
  for name, leaf in merged["leaves"].items():
    if not digests.covers(leaf["digests"], leaf["shape"]):
      raise Damaged(f"{name} has parts without a digest")
  # With fewer processes than at the save, some verify the files of several.
  for process in range(merged["processes"]):
    if process % jax.process_count() == jax.process_index():
      own = hosts / f"process_{process}"
      recorded = digests.read_manifest(own / "manifest.json")["files"]
      found = digests.file_digests(own)
      for name, value in recorded.items():
        if found.get(name) != value:
          how = "is missing" if name not in found else "does not match"
          raise Damaged(f"{own.name}/{name} {how}")
  return merged


def _agree(reason: str) -> None:
  """Raises Damaged on every process if any of them passes a reason."""
  damaged = bool(reason)
  if jax.process_count() > 1:
    damaged = multihost_utils.process_allgather(np.array(damaged)).any()
  if damaged:
    raise Damaged(reason or "on another process")


def _is_transient(error: Exception) -> bool:
  kinds = (MemoryError, PermissionError, jax.errors.JaxRuntimeError)
  return isinstance(error, kinds) or any(w in str(error) for w in _TRANSIENT)


def _first_line(error: Exception) -> str:
  lines = str(error).strip().splitlines()
  text = lines[0] if lines else type(error).__name__
  return text if len(text) <= 100 else f"{text[:100]}..."
