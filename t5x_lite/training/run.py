"""Run: all that one training run is made of, as a tree of small objects.

No TensorFlow here, so that a run can be described where there is none.
"""

import dataclasses
from collections.abc import Callable, Sequence

from t5x_lite.checkpoints import Retention, WarmStart
from t5x_lite.data import Data
from t5x_lite.decoding import GREEDY, UNCONSTRAINED, Constraints
from t5x_lite.devices.layout import Layout
from t5x_lite.model import Model
from t5x_lite.optim.optimizers import Optimizer


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
  keep: Retention = Retention()
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
