"""Reads held-out batches, caches small sets and computes unigram entropy."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from t5x_lite.data.reader import Reader
from t5x_lite.devices.layout import Layout
from t5x_lite.inference import batched


def held_out(
  readers: Sequence[Reader], *, layout: Layout | None = None
) -> list["HeldOut"]:
  """Returns the held-out batches of each task, read when first used.

  Each task's split is read once: an endless `num_epochs=None` becomes one pass,
  which may end before `num_batches`. The tasks of a mixture and the stages of
  `Data.next_stage` are separate.

  Raises:
    ValueError: the processes cannot share a batch.
  """
  _, count = batched.share(layout)
  for reader in readers:
    reader.check_process_count(count)
  # An endless stream would wrap around a split smaller than num_batches.
  return [
    HeldOut(
      stage.replace(
        task=part.name, num_epochs=stage.spec.num_epochs or 1, next_stage=None
      ),
      layout,
    )
    for reader in readers
    for stage in reader.stages
    for part in stage.task.parts
    if stage.spec.split in part.splits
  ]


class HeldOut:
  """Iterates over this process's batches of a reader, always the same.

  Attributes:
    reader: the reader, with a finite number of epochs.
    unigram_entropy: the entropy of the targets, in nats per token; None until
      the first iteration has ended.
  """

  # Smaller sets are cached: reading takes longer than evaluating a small model.
  keep_bytes = 256 * 2**20

  def __init__(self, reader: Reader, layout: Layout | None = None):
    self.reader = reader
    self.unigram_entropy = None
    self._share = batched.share(layout)
    self._kept = None

  def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
    if self._kept is not None:
      yield from self._kept
      return
    index, count = self._share
    stream = self.reader.batches(process_index=index, process_count=count)
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
