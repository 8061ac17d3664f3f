"""Evaluates a model on suites of seqio tasks, by the tasks' own metrics.

A suite is the offline one (tasks/evaluation/offline.py), or any evaluation
mixture whose data is available. The tasks decide whether it is zero-shot or
few-shot, and a study's stages whether it is after fine-tuning.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_lite import checks
from t5x_lite.data import Data
from t5x_lite.data.reader import Reader
from t5x_lite.data.resolved_task import resolve
from t5x_lite.devices.layout import Layout
from t5x_lite.evaluation.metrics import task_metrics
from t5x_lite.model import Model, Params

# LAMBADA also has a perplexity, which is not part of a score.
_NO_PERCENTAGE = "perplexity"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
  """Defines the tasks of a suite and how many examples to use.

  Attributes:
    tasks: names of tasks and mixtures, with metrics in percent.
    lengths: {feature: tokens}; longer inputs are truncated.
    examples: the maximum number of examples per task, from the split's start.
    split: the split to evaluate on.
    batch_size: rows per batch.
  """

  tasks: Sequence[str]
  lengths: Mapping[str, checks.Count]
  examples: checks.Count = 128
  split: str = "validation"
  batch_size: checks.Count = 32

  def __post_init__(self):
    checks.fields(self)
    if not self.tasks:
      raise ValueError("Suite.tasks is empty: name a task or a mixture")
    if self.examples < self.batch_size or self.examples % self.batch_size:
      raise ValueError(
        f"Suite.examples ({self.examples}) must be a multiple of "
        f"Suite.batch_size ({self.batch_size})"
      )


def measure(
  suite: Suite, model: Model, params: Params, *, layout: Layout | None = None
) -> dict[str, Any]:
  """Evaluates a model on a suite, in the format of its tasks.

  Returns:
    {"score": the mean over tasks, "tasks": {task: the mean of its metrics, as
    in GLUE}, "metrics": {task: {metric: value}}, "examples": {task: the number
    of examples}}; all in percent except "perplexity", which no mean includes.

  Raises:
    ValueError: a task does not suit the model, or has no metrics.
  """
  found, examples = {}, {}
  for task in _tasks(suite):
    spec = Data(
      task=task,
      lengths=suite.lengths,
      batch_size=suite.batch_size,
      split=suite.split,
      shuffle=False,
      num_epochs=1,
      num_batches=suite.examples // suite.batch_size,
    )
    reader = Reader(spec, model.row_format)
    found[task] = task_metrics(model, params, reader, layout=layout)
    if not found[task]:
      raise ValueError(f"Suite.tasks: {task} has no metrics")
    examples[task] = found[task].pop("num_examples")
  scores = {
    task: _mean(x for name, x in metrics.items() if name != _NO_PERCENTAGE)
    for task, metrics in found.items()
  }
  return {
    "score": _mean(scores.values()),
    "tasks": scores,
    "metrics": found,
    "examples": examples,
  }


def _tasks(suite) -> list[str]:
  """Returns the names of the tasks, with mixtures expanded."""
  parts = [resolve(name).parts for name in suite.tasks]
  return list(dict.fromkeys(task.name for tasks in parts for task in tasks))


def _mean(values) -> float:
  values = list(values)
  return sum(values) / len(values)
