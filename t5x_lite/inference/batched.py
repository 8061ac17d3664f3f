"""Runs a function on batches of one size and few lengths, asynchronously."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from t5x_lite.devices.layout import Layout

Arrays = dict[str, np.ndarray]

# Below this, shorter rows cost the same and only compile again.
_SMALLEST_BUCKET = 16


def compute(
  function: Callable[[Mapping[str, jax.Array], jax.Array], Mapping[str, Any]],
  batches: Iterable[tuple[np.ndarray, Arrays]],
  *,
  batch_size: int,
  layout: Layout | None = None,
) -> Iterator[tuple[np.ndarray, Arrays]]:
  """Yields the results of a function on each batch.

  The next batch is computed while a result is fetched and used. All processes
  read the same batches, and each gets all results.

  Args:
    function: maps a batch and its row ids (-1: padding) to arrays [B, ...].
    batches: pairs of row ids, not negative, and arrays [rows, length].
    batch_size: the number of rows that batches are padded to; from `round_up`.
    layout: the devices; None means one device.

  Yields:
    The row ids of a batch, and the results of these rows.
  """
  waiting = None
  for row_ids, batch in batches:
    missing = batch_size - len(row_ids)
    arrays = {k: np.pad(v, [(0, missing), (0, 0)]) for k, v in batch.items()}
    arrays = trim(arrays)
    arrays["row_ids"] = np.pad(row_ids, (0, missing), constant_values=-1)
    with active(layout):
      arrays = _put(arrays, layout)
      computed = row_ids, function(arrays, arrays.pop("row_ids"))
    if waiting is not None:
      yield _get(*waiting)
    waiting = computed
  if waiting is not None:
    yield _get(*waiting)


def active(layout: Layout | None) -> contextlib.AbstractContextManager:
  """Returns the layout's context for computing; without one, a no-op."""
  return contextlib.nullcontext() if layout is None else layout.activate()


def share(layout: Layout | None) -> tuple[int, int]:
  """Returns this process's share of a batch: (index, count)."""
  return (0, 1) if layout is None else layout.data_shard()


def round_up(batch_size: int, layout: Layout | None = None) -> int:
  """Rounds a batch size up to a multiple of the data shards."""
  if batch_size < 1:
    raise ValueError(f"batch_size ({batch_size}) must be at least 1")
  if layout is None:
    return batch_size
  num_devices = jax.device_count()
  (rows,) = layout.batch_sharding().shard_shape((num_devices,))
  num_shards = num_devices // rows
  return -(-batch_size // num_shards) * num_shards


def trim(batch: Arrays) -> Arrays:
  """Trims the padding at the end of a batch's rows to the next bucket length.

  Buckets are powers of two, so that a jitted function of the batch compiles a
  few times rather than once per length.
  """
  widths = {}
  for side in ("encoder", "decoder"):
    segment_ids = batch.get(f"{side}_segment_ids")
    if segment_ids is not None:
      longest = int((segment_ids > 0).sum(axis=-1).max())
      bucket = 1 << max(longest - 1, 0).bit_length()
      widths[side] = max(bucket, _SMALLEST_BUCKET)
  return {k: v[:, : widths[k.split("_", 1)[0]]] for k, v in batch.items()}


def _put(batch, layout):
  """Moves this process's rows of a batch to the devices."""
  if layout is None:
    return batch
  index, count = share(layout)
  rows = len(batch["row_ids"]) // count
  mine = slice(rows * index, rows * (index + 1))
  return layout.shard_batch({k: v[mine] for k, v in batch.items()})


def _get(row_ids, computed):
  if jax.process_count() > 1:
    computed = multihost_utils.process_allgather(computed, tiled=True)
  rows = {k: np.asarray(v)[: len(row_ids)] for k, v in computed.items()}
  return row_ids, rows
