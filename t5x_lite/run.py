"""Run: all that one training run is made of, as a tree of small objects.

No TensorFlow here, so that a run can be described where there is none.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from t5x_lite.decoding import GREEDY, UNCONSTRAINED, Constraints
from t5x_lite.model import Model
from t5x_lite.optimizers import Optimizer
from t5x_lite.partitioning import Layout


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
    order: a name for the order of the source's documents: two tasks over one
      source with one name and seed read the same documents in the same order,
      whatever each makes of them. None is an order of the task's own.
    num_epochs: passes over the split; None repeats for ever.
    num_batches: where evaluation stops; None takes the whole split.
    loss_on_inputs: whether a decoder-only model is scored on inputs too.
    cache_dir: where `t5x_lite cache` has written the task; None reads the
      source and tokenizes anew.
    then: what is read after `num_batches`, in training the next stage: another
      task, whose rows have the same shapes.
  """

  task: str
  lengths: Mapping[str, int]
  batch_size: int
  split: str = "train"
  shuffle: bool = True
  pack: bool = False
  seed: int = 0
  order: str | None = None
  num_epochs: int | None = None
  num_batches: int | None = None
  loss_on_inputs: bool = False
  cache_dir: str | None = None
  then: "Data | None" = None

  def __post_init__(self):
    if self.then is not None and self.num_batches is None:
      raise ValueError(
        f"Data of {self.task} goes on with {self.then.task}, but num_batches "
        "does not say when: set it"
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keep:
  """Says which checkpoints stay; what several rules name stays once.

  Attributes:
    last: this many of the newest; None keeps all.
    every: also each step that this divides.
    best: also this many of the best by `metric`.
    metric: name in the evaluation's metrics, "TASK/loss" for instance.
    mode: "min" or "max", which end of the metric is best.
  """

  last: int | None = 3
  every: int | None = None
  best: int | None = None
  metric: str | None = None
  mode: str = "min"

  def __post_init__(self):
    if self.mode not in ("min", "max"):
      raise ValueError(f"Keep.mode ({self.mode!r}) must be 'min' or 'max'")
    if (self.best is None) != (self.metric is None):
      raise ValueError(
        f"Keep.best ({self.best}) and Keep.metric ({self.metric!r}) go "
        "together: set both or neither"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmStart:
  """Says which other run the first parameters come from.

  Attributes:
    path: a run directory, or one checkpoint step in it.
    renames: pairs (regular expression, replacement), applied in order to the
      source's names, "encoder/layer_0/attention/query/kernel".
    step: of the source; None is its newest.
    strict: whether missing or unexpected names are refused, and a vocabulary
      other than the run's; otherwise names are listed, and what is missing is
      initialised.
    last_ids: where the vocabulary has grown: how many ids at its end, the
      sentinels, stay at its end. The new ids come before them, and begin as
      the mean of all old ones. Rows of the embedding beyond the ids, which
      round its size up, do not count. None refuses another size.
  """

  path: str
  renames: Sequence[tuple[str, str]] = ()
  step: int | None = None
  strict: bool = True
  last_ids: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """A training run.

  Attributes:
    model: what is trained; its vocabulary size may be left to the tokenizer.
    train: what it is trained on.
    eval: what it is evaluated on, one entry per task.
    optimizer: how it is trained.
    total_steps: updates in all.
    layout: the devices.
    seed: of initialisation and dropout.
    microbatches: pieces that a batch is cut into to save memory.
    log_every, eval_every, sample_every, checkpoint_every: absolute steps at
      which each happens (and after the last step); None never.
    keep: which checkpoints stay.
    warm_start: where the first parameters come from; None draws them.
    sampler: chooses the tokens of sample predictions, and of `infer` where no
      flag does.
    constraints: what holds for generated text, whoever asks for it.
  """

  model: Model
  train: Data
  optimizer: Optimizer
  total_steps: int
  eval: Sequence[Data] = ()
  layout: Layout = Layout()
  seed: int = 0
  microbatches: int = 1
  log_every: int = 100
  eval_every: int | None = 1000
  sample_every: int | None = None
  checkpoint_every: int | None = 1000
  keep: Keep = Keep()
  warm_start: WarmStart | None = None
  sampler: Callable = GREEDY
  constraints: Constraints = UNCONSTRAINED

  def __post_init__(self):
    for name in (
      "total_steps", "microbatches", "log_every", "eval_every",
      "sample_every", "checkpoint_every",
    ):  # fmt: skip
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ValueError(f"Run.{name} ({value}) must be at least 1")
    if self.train.batch_size % self.microbatches:
      raise ValueError(
        f"batch_size ({self.train.batch_size}) must be divisible by "
        f"microbatches ({self.microbatches})"
      )
