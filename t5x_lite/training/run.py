"""Defines Run: the configuration of a training run, a tree of small objects.

It does not import TensorFlow, so that a run can be described without it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from t5x_lite import checks
from t5x_lite.checkpoints import Retention, WarmStart
from t5x_lite.data import Data
from t5x_lite.decoding import GREEDY, UNCONSTRAINED, Constraints, Strategy
from t5x_lite.devices.layout import Layout
from t5x_lite.model import Model
from t5x_lite.optim.optimizers import Optimizer
from t5x_lite.training.loss_spike import LossSpike
from t5x_lite.training.trackers import Tracker


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """Configures a training run.

  Attributes:
    model: the model; its vocabulary size may be taken from the tokenizer.
    train: the training data.
    eval: the evaluation data, one entry per task.
    optimizer: the optimizer and its learning rate schedule.
    total_steps: the total number of updates.
    layout: the mesh of devices and the sharding rules.
    seed: the seed of initialisation and dropout.
    microbatches: the number of microbatches per batch, to save memory; "auto":
      the fewest that fit the devices' memory, chosen at each start.
    log_every, eval_every, sample_every, checkpoint_every: do this at every
      multiple of these steps and after the last step; None: never.
    max_skipped_steps: steps in a row whose loss or gradient is not finite,
      and which therefore change nothing, after which training stops.
    loss_spike: after what rise of the loss training stops; None: never.
    sdc_check_every: check the devices for silent data corruption at every
      multiple of these steps, at the cost of one more step and of the memory of
      one more training state (corruption.py); None: never.
    batch_timeout_seconds: how long a step may wait for its data before the
      process prints all stacks and ends (watchdog.py).
    keep: which checkpoints to keep.
    warm_start: the checkpoint to initialise the parameters from; None
      initialises them at random.
    sampler: the strategy of sample predictions, and the default of `infer`.
    constraints: the constraints on all generated text.
    trackers: where to send the records, besides metrics.jsonl and TensorBoard.
  """

  model: Model
  train: Data
  optimizer: Optimizer
  total_steps: checks.Count
  eval: Sequence[Data] = ()
  layout: Layout = Layout()
  seed: checks.Seed = 0
  microbatches: checks.Count | Literal["auto"] = 1
  log_every: checks.Count = 100
  eval_every: checks.Count | None = 1000
  sample_every: checks.Count | None = None
  checkpoint_every: checks.Count | None = 1000
  max_skipped_steps: checks.Count = 10
  loss_spike: LossSpike | None = LossSpike()
  sdc_check_every: checks.Count | None = None
  batch_timeout_seconds: checks.Positive = 1800.0
  keep: Retention = Retention()
  warm_start: WarmStart | None = None
  sampler: Strategy = GREEDY
  constraints: Constraints = UNCONSTRAINED
  trackers: Sequence[Tracker] = ()

  def __post_init__(self):
    checks.fields(self)
    if self.microbatches == "auto":
      return
    if self.train.batch_size % self.microbatches:
      raise ValueError(
        f"batch_size ({self.train.batch_size}) must be divisible by "
        f"microbatches ({self.microbatches})"
      )
