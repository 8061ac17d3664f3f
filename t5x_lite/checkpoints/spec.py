"""Settings of checkpoints: which are kept, and which run a run starts from."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retention:
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
      raise ValueError(f"Retention.mode ({self.mode!r}) must be 'min' or 'max'")
    if (self.best is None) != (self.metric is None):
      raise ValueError(
        f"Retention.best ({self.best}) and Retention.metric "
        f"({self.metric!r}) go together: set both or neither"
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
    num_trailing_sentinels: where the vocabulary has grown: how many ids at its
      end, the sentinels, stay at its end. The new ids come before them, and
      start as the mean of all old ones. Rows of the embedding beyond the ids,
      which round its size up, do not count. None refuses another size.
  """

  path: str
  renames: Sequence[tuple[str, str]] = ()
  step: int | None = None
  strict: bool = True
  num_trailing_sentinels: int | None = None
