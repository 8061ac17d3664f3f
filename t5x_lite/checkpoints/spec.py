"""Holds the checkpoint settings: retention and warm start."""

import dataclasses
from collections.abc import Sequence

from t5x_lite import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retention:
  """Selects the checkpoints to keep: those that any of the rules selects.

  Attributes:
    last: keep this many of the newest; None keeps all. Training also keeps the
      newest whose loss is known to be finite: with last=1 there may be two.
    every: also keep each step that is a multiple of this.
    best: also keep this many of the best by `metric`.
    metric: the name of an evaluation metric, for example "TASK/loss".
    mode: "min" or "max": whether a low or a high metric is best.
  """

  last: checks.Count | None = 3
  every: checks.Count | None = None
  best: checks.Count | None = None
  metric: str | None = None
  mode: str = "min"

  def __post_init__(self):
    checks.fields(self)
    if self.mode not in ("min", "max"):
      raise ValueError(f"Retention.mode ({self.mode!r}) must be 'min' or 'max'")
    if (self.best is None) != (self.metric is None):
      raise ValueError(
        f"Retention.best ({self.best}) and Retention.metric "
        f"({self.metric!r}) go together: set both or neither"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmStart:
  """Names the checkpoint of another run to initialise the parameters from.

  Attributes:
    path: a run directory, or one checkpoint step in it.
    renames: pairs (regular expression, replacement), applied in order to the
      source's parameter names, "encoder/layer_0/attention/query/kernel".
    step: the source's step; None takes its newest.
    strict: refuse missing or unexpected names, and a vocabulary other than
      this run's. Otherwise the differences are logged, and missing parameters
      keep their initial values.
    num_trailing_sentinels: for a vocabulary that has grown: how many ids at its
      end are sentinels, which stay at its end. New ids are inserted before
      them, and their embeddings start as the mean of all old ones. Embedding
      rows that only pad the vocabulary's size are not counted. None refuses a
      vocabulary of another size.
  """

  path: str
  renames: Sequence[tuple[str, str]] = ()
  step: checks.Whole | None = None
  strict: bool = True
  num_trailing_sentinels: checks.Whole | None = None

  def __post_init__(self):
    checks.fields(self)
