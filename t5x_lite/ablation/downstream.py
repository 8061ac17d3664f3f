"""Suite: seqio tasks that a model is asked, by their own metrics.

Zero-shot, few-shot or after fine-tuning is a matter of the tasks and of when
they are asked: the offline suite (tasks/evaluation/offline.py), or any
evaluation mixture whose data is there.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import seqio

from t5x_lite.data import Data, batches
from t5x_lite.evaluation import evaluate

# Stands beside LAMBADA's accuracy, and is no part of a score.
_NO_PERCENTAGE = "perplexity"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
  """Says which tasks are asked, and how much of them.

  Attributes:
    tasks: names of tasks and of mixtures, with metrics in percent.
    lengths: of their features; longer inputs are cut.
    examples: of each task at most, the first of the split.
    split: of the tasks.
    batch_size: rows at a time.
  """

  tasks: Sequence[str]
  lengths: Mapping[str, int]
  examples: int = 128
  split: str = "validation"
  batch_size: int = 32

  def __post_init__(self):
    if not self.tasks:
      raise ValueError("Suite.tasks is empty: name a task or a mixture")
    if self.examples < self.batch_size or self.examples % self.batch_size:
      raise ValueError(
        f"Suite.examples ({self.examples}) must be a multiple of "
        f"Suite.batch_size ({self.batch_size})"
      )


def measure(
  suite: Suite, model: Any, params: Any, *, layout: Any = None
) -> dict[str, Any]:
  """Asks a model the tasks of a suite, in the format that these have.

  Returns:
    {"score": the mean over tasks, "tasks": task -> the mean of its metrics, as
    GLUE has it, "metrics": task -> metric -> value; all in percent but a
    "perplexity", which no mean includes, and "examples": task -> how many it
    has given}.

  Raises:
    ValueError: a task that the model cannot be asked, or without metrics.
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
    batches.check(spec, model.row_format)
    found[task] = evaluate.task_metrics(model, params, spec, layout=layout)
    if not found[task]:
      raise ValueError(f"Suite.tasks: {task} has no metric to measure by")
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
  """Returns the names of the tasks, those of mixtures one by one."""
  parts = [seqio.get_subtasks(batches.get_task(name)) for name in suite.tasks]
  return list(dict.fromkeys(task.name for tasks in parts for task in tasks))


def _mean(values) -> float:
  values = list(values)
  return sum(values) / len(values)
