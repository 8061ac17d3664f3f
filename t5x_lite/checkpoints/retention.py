"""Decides which checkpoints are kept, as policies for Orbax's manager."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath
from orbax.checkpoint import checkpoint_managers as preservation

from t5x_lite.checkpoints import saved_step
from t5x_lite.checkpoints.spec import Retention


class Best:
  """Preserves the best steps by a metric, as `Retention` says.

  Orbax's BestN may keep a step whose metric is NaN, and knows no metrics of
  steps that an earlier run has saved, unless the manager reads all of them when
  it starts, where a damaged one would stop the run.
  """

  def __init__(self, keep: Retention) -> None:
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

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    sign = 1 if self._keep.mode == "min" else -1
    best_first = sorted(  # The newer one of a tie comes first.
      self._metrics.keys() & set(steps),
      key=lambda step: (sign * self._metrics[step], -step),
    )
    best = best_first[: self._keep.best or 0]
    return [step in best for step in steps]


@dataclasses.dataclass
class NewestVerified:
  """Preserves the newest checkpoint at or before `step`.

  Attributes:
    step: the last step whose parameters are known to give a finite loss.
  """

  step: int = -1

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    newest = max((s for s in steps if s <= self.step), default=None)
    return [step == newest for step in steps]


def policy(
  keep: Retention, *policies: Any
) -> preservation.AnyPreservationPolicy:
  """Returns the policy that keeps what `keep` or any of the policies keeps."""
  found = [preservation.LatestN(keep.last), *policies]
  if keep.every is not None:
    found.append(preservation.EveryNSteps(keep.every))
  return preservation.AnyPreservationPolicy(found)
