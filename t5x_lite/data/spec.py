"""Defines Data, the settings of a data stream, without TensorFlow."""

import dataclasses
from collections.abc import Mapping

from t5x_lite import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """Configures a data stream: what is read, and in what batches.

  Attributes:
    task: the name of a seqio task or mixture.
    lengths: {feature: tokens}, e.g. {"inputs": 512, "targets": 114}.
    batch_size: the rows of a global batch.
    num_streams: the number of streams that training reads a batch from, in
      equal blocks of rows, each with its own part of the examples. It
      determines the batches; the number of processes does not, but more
      streams let more processes share the reading. One must divide the other.
      What is read in finite passes (`num_epochs`) is one stream.
    split: the split of the task.
    shuffle: whether examples are read in random order.
    pack: whether several examples share a row.
    seed: the seed of the order and of random preprocessing.
    document_order: a name that determines the order of the source's documents:
      two tasks over one source with the same name and seed read the same
      documents in the same order, whatever their preprocessors do. None means
      the name of the task.
    num_epochs: the passes over the split; None repeats it forever in training,
      and is one pass in evaluation.
    num_batches: the maximum number of batches; None reads the whole split.
    loss_on_inputs: whether the inputs of a decoder-only model are scored too.
    cache_dir: the directory in which `t5x_lite cache` wrote the task; None
      reads the source and tokenizes again.
    next_stage: the data that training reads after `num_batches`, with rows of
      the same shapes.
  """

  task: str
  lengths: Mapping[str, checks.Count]
  batch_size: checks.Count
  num_streams: checks.Count = 1
  split: str = "train"
  shuffle: bool = True
  pack: bool = False
  seed: int = 0
  document_order: str | None = None
  num_epochs: checks.Count | None = None
  num_batches: checks.Count | None = None
  loss_on_inputs: bool = False
  cache_dir: str | None = None
  next_stage: "Data | None" = None

  def __post_init__(self):
    checks.fields(self)
    if self.next_stage is not None and self.num_batches is None:
      raise ValueError(
        f"Data of {self.task} has a next_stage, {self.next_stage.task}, but no "
        "num_batches after which it begins: set num_batches"
      )

  @property
  def stages(self) -> "list[Data]":
    """Returns the stages in order: this one, `next_stage`, and so on."""
    return [self, *(self.next_stage.stages if self.next_stage else ())]
