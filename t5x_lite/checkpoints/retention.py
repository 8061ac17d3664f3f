"""Decides which checkpoints are kept."""

import math
from collections.abc import Mapping, Sequence

from absl import logging
from etils import epath

from t5x_lite.checkpoints import saved_step
from t5x_lite.checkpoints.spec import Retention


class Retained:
  """Selects the checkpoints to keep: those that any of the rules selects.

  Attributes:
    verified_step: the last step whose parameters are known to give a finite
      loss. The newest checkpoint at or before it is kept, whatever `Retention`
      says.
  """

  def __init__(self, keep: Retention) -> None:
    self.verified_step = -1
    self._keep = keep
    self._metrics: dict[int, float] = {}

  def add_saved(self, folder: epath.Path, steps: Sequence[int]) -> None:
    """Reads the metrics of steps that an earlier run has saved."""
    if self._keep.best is not None:
      for step in steps:
        self.add(step, saved_step.read_metrics(folder / str(step)))

  def add(self, step: int, metrics: Mapping[str, float | None]) -> None:
    """Adds the metrics of a step; those that are not finite are ignored."""
    name = self._keep.metric
    if metrics and name is not None and name not in metrics:
      logging.log_first_n(
        logging.WARNING,
        "Retention.metric (%r) is not one of the metrics: %s; no checkpoint is "
        "kept as best",
        1,
        name,
        ", ".join(metrics),
      )
    value = metrics.get(name)
    if value is not None and math.isfinite(value):
      self._metrics[step] = value

  def among(self, steps: Sequence[int]) -> set[int]:
    """Returns the steps to keep among those that are there."""
    keep, newest_first = self._keep, sorted(steps, reverse=True)
    verified = [step for step in newest_first if step <= self.verified_step]
    kept = {*newest_first[: keep.last], *verified[:1]}
    if keep.every is not None:
      kept |= {step for step in steps if step % keep.every == 0}
    sign = 1 if keep.mode == "min" else -1
    best_first = sorted(  # The newer one of a tie comes first.
      self._metrics.keys() & set(steps),
      key=lambda step: (sign * self._metrics[step], -step),
    )
    return kept | set(best_first[: keep.best or 0])
