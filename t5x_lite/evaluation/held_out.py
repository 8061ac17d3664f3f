"""Reads held-out batches, caches small sets and computes unigram entropy."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from t5x_lite.data import Data
from t5x_lite.data import batches as batches_lib
from t5x_lite.devices.layout import Layout
from t5x_lite.inference import batched
from t5x_lite.row_formats import RowFormat


def held_out(
  specs: Sequence[Data], row_format: RowFormat, *, layout: Layout | None = None
) -> list["HeldOut"]:
  """Returns the held-out batches of each task, read when first used.

  Each task's split is read once: an endless `num_epochs=None` becomes one pass,
  which may end before `num_batches`. The tasks of a mixture and the stages of
  `Data.next_stage` are separate.

  Raises:
    ValueError: some data cannot be read (see batches.check).
  """
  _, count = batched.share(layout)
  for spec in specs:
    batches_lib.check(spec, row_format, process_count=count)
  return [
    HeldOut(one, row_format, layout)
    for spec in specs
    for stage in batches_lib.stages(spec)
    for one in _each_task(stage)
  ]


class HeldOut:
  """Iterates over this process's batches of a `data.Data`, always the same.

  Attributes:
    spec: the data to read, with a finite number of epochs.
    unigram_entropy: the entropy of the targets, in nats per token; None until
      the first iteration has ended.
  """

  # Smaller sets are cached: reading takes longer than evaluating a small model.
  keep_bytes = 256 * 2**20

  def __init__(
    self, spec: Data, row_format: RowFormat, layout: Layout | None = None
  ):
    # Endless, it would wrap around a split smaller than num_batches.
    self.spec = dataclasses.replace(spec, num_epochs=spec.num_epochs or 1)
    self.unigram_entropy = None
    self._row_format = row_format
    self._share = batched.share(layout)
    self._kept = None

  def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
    if self._kept is not None:
      yield from self._kept
      return
    index, count = self._share
    stream = batches_lib.batches(
      self.spec, self._row_format, process_index=index, process_count=count
    )
    counts, kept, kept_bytes = TargetCounts(), [], 0
    for batch in counts.watch(stream):
      kept_bytes += sum(value.nbytes for value in batch.values())
      if kept_bytes <= self.keep_bytes:
        kept.append(batch)
      yield batch
    self.unigram_entropy = counts.entropy()
    self._kept = kept if kept_bytes <= self.keep_bytes else None


def unigram_entropy(batches: Iterable[Mapping[str, np.ndarray]]) -> float:
  """Returns the unigram entropy of the targets, in nats per token.

  It is the loss on these tokens of the best model that ignores context.
  """
  counts = TargetCounts()
  for _ in counts.watch(batches):
    pass
  return counts.entropy()


class TargetCounts:
  """Counts the targets (with a loss weight) of batches by token id."""

  def __init__(self):
    self._counts = np.zeros(0)

  def watch(self, batches: Iterable[Any]) -> Iterator[Any]:
    """Yields the batches unchanged, and counts their targets."""
    for batch in batches:
      for side in ("encoder", "decoder"):
        if f"{side}_target_tokens" in batch:
          self._count(
            np.asarray(batch[f"{side}_target_tokens"]).ravel(),
            np.asarray(batch[f"{side}_loss_weights"]).ravel(),
          )
      yield batch

  def _count(self, tokens, weights):
    counts = np.bincount(
      tokens[weights > 0],
      weights=weights[weights > 0],
      minlength=len(self._counts),
    ).astype(np.float64)  # NumPy gives integers for an empty array
    counts[: len(self._counts)] += self._counts
    self._counts = counts

  def entropy(self) -> float:
    """Returns the entropy of the counts of all processes, in nats."""
    counts = self._counts
    if jax.process_count() > 1:
      sizes = multihost_utils.process_allgather(np.int32(len(counts)))
      counts = np.pad(counts, (0, int(np.max(sizes)) - len(counts)))
      # As int32: JAX would round float64 to float32.
      parts = multihost_utils.process_allgather(counts.astype(np.int32))
      counts = np.sum(parts, axis=0, dtype=np.float64)
    probs = counts[counts > 0] / max(counts.sum(), 1)
    return float(-np.sum(probs * np.log(probs)))


def _each_task(spec):
  """Returns the spec of each task of a stage, without a next stage."""
  spec = dataclasses.replace(spec, next_stage=None)
  provider = batches_lib.get_task(spec.task)
  if not hasattr(provider, "tasks"):
    return [spec]
  return [
    dataclasses.replace(spec, task=task.name)
    for task in provider.tasks
    if spec.split in task.splits
  ]
