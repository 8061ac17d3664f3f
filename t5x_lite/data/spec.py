"""Data: what to read, and in which portions. No TensorFlow here."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """Says what to read, and in which portions.

  Attributes:
    task: name of a seqio task or mixture.
    lengths: task feature -> tokens, e.g. {"inputs": 512, "targets": 114}.
    batch_size: rows of a global batch.
    split: of the task.
    shuffle: whether examples are drawn in a random order.
    pack: whether several examples share a row.
    seed: of order and noise.
    document_order: a name for the order of the source's documents: two tasks
      over one source with one name and seed read the same documents in the same
      order, whatever each makes of them. None is an order of the task's own.
    num_epochs: passes over the split; None repeats for ever in training, and
      is one pass in evaluation.
    num_batches: where evaluation stops, if the split does not end before; None
      takes the whole split.
    loss_on_inputs: whether a decoder-only model is scored on inputs too.
    cache_dir: where `t5x_lite cache` has written the task; None reads the
      source and tokenizes anew.
    next_stage: what training reads after `num_batches`: another task, whose
      rows have the same shapes.
  """

  task: str
  lengths: Mapping[str, int]
  batch_size: int
  split: str = "train"
  shuffle: bool = True
  pack: bool = False
  seed: int = 0
  document_order: str | None = None
  num_epochs: int | None = None
  num_batches: int | None = None
  loss_on_inputs: bool = False
  cache_dir: str | None = None
  next_stage: "Data | None" = None

  def __post_init__(self):
    if self.next_stage is not None and self.num_batches is None:
      raise ValueError(
        f"Data of {self.task} goes on with {self.next_stage.task}, but "
        "num_batches does not say when: set it"
      )
    for name in ("batch_size", "num_epochs", "num_batches"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ValueError(f"Data.{name} ({value}) must be at least 1")
    for feature, length in self.lengths.items():
      if length < 1:
        raise ValueError(
          f"Data.lengths[{feature!r}] ({length}) must be at least 1"
        )

  @property
  def stages(self) -> "list[Data]":
    """Returns what is read in turn: this stage, `next_stage`, and so on."""
    return [self, *(self.next_stage.stages if self.next_stage else ())]
