"""Registers a source and an objective as a seqio task.

seqio gives the same seed to all tasks and shards, so two tasks over one text,
or two hosts, would draw the same noise. `Task` folds its name into all seeds,
and the shard index into the seeds of noise. (Not into that of the source's
order: sources that shuffle before sharding need the same order on all shards.)
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import seqio
import tensorflow as tf

from t5x_lite.files.near_names import did_you_mean, near
from tasks import cache

# Sources shuffle documents; this buffer separates the windows of one document.
# A larger one would delay the first step and enlarge iterator checkpoints.
SHUFFLED_EXAMPLES = 256

_shard: contextvars.ContextVar[seqio.ShardInfo | None] = contextvars.ContextVar(
  "shard", default=None
)


class Objective(Protocol):
  """Defines how documents become examples; see tasks/span_corruption.py.

  An objective is a frozen dataclass, so that equal objectives compare equal.
  """

  def output_features(
    self, vocabulary: seqio.Vocabulary
  ) -> Mapping[str, seqio.Feature]:
    """Returns the features of an example."""

  def preprocessors(self) -> Sequence[Callable[..., tf.data.Dataset]]:
    """Returns the steps from the source's examples to these features."""

  @property
  def metric_fns(self) -> Sequence[Callable]:
    """Returns metrics of predictions for seqio.Evaluator; may be empty."""

  @property
  def postprocess_fn(self) -> Callable | None:
    """Maps decoded text to the values that `metric_fns` compare."""


class Task(seqio.Task):
  """Extends seqio.Task with different noise for each task and shard.

  Preprocessors are traced without AutoGraph, whose rewriting took a second at
  each start: they must branch on tensors with tf.cond or tf.where, not `if`.

  Attributes:
    examples_together: the number of consecutive examples that fill a packed
      row; they are shuffled as one.
    delimiter: the text between inputs and targets, if the targets continue the
      inputs.
  """

  examples_together: int = 1
  delimiter: str = " "

  def get_dataset(
    self,
    sequence_length: Mapping[str, int] | None = None,
    split: str = "train",
    *,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **options,
  ) -> tf.data.Dataset:
    if split not in self.splits:
      raise ValueError(
        f"task {self.name!r} has no split {split!r}: it has "
        f"{', '.join(map(repr, self.splits))}"
        f"{did_you_mean(near(split, self.splits))}"
      )
    # seqio's in-memory cache repeats the first epoch's order in all epochs, and
    # stores all text in each iterator checkpoint.
    options["try_in_mem_cache"] = False
    token = _shard.set(shard_info)
    try:
      return super().get_dataset(
        sequence_length,
        split,
        seed=fold(seed, self.name),
        shard_info=shard_info,
        **options,
      )
    finally:
      _shard.reset(token)

  @tf.autograph.experimental.do_not_convert
  def preprocess_precache(
    self, dataset: tf.data.Dataset, seed: int | None = None
  ) -> tf.data.Dataset:
    return super().preprocess_precache(dataset, seed)

  @tf.autograph.experimental.do_not_convert
  def preprocess_postcache(
    self,
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int] | None,
    seed: int | None = None,
  ) -> tf.data.Dataset:
    shard = _shard.get()
    if shard and shard.num_shards > 1:
      seed = fold(seed, f"shard {shard.index} of {shard.num_shards}")
    return super().preprocess_postcache(dataset, sequence_length, seed)


def fold(seed: int | None, name: str) -> int | None:
  """Derives a 62-bit seed from a seed and a name; None stays None.

  Maps use consecutive seeds, so with 32 bits the seeds of a few thousand (task,
  shard) pairs could overlap.
  """
  if seed is None:
    return None
  return int(cache.digest([str(int(seed)), name]), 16) >> 2


def find_task(
  source: seqio.DataSource,
  objective: Objective,
  vocabulary: seqio.Vocabulary,
) -> str | None:
  """Returns the name of a registered task with this recipe, if there is one."""
  recipe = {"objective": objective, "vocabulary": vocabulary, "source": source}
  for name in seqio.TaskRegistry.names():
    if getattr(seqio.TaskRegistry.get(name), "recipe", None) == recipe:
      return name
  return None


def add_task(
  name: str,
  *,
  source: seqio.DataSource,
  objective: Objective,
  vocabulary: seqio.Vocabulary,
  shuffle_buffer_size: int = SHUFFLED_EXAMPLES,
) -> str:
  """Registers a task and returns its name.

  Registering it again with equal arguments is allowed: gin evaluates each
  occurrence of `@text_task()` separately.
  """
  recipe = {"objective": objective, "vocabulary": vocabulary, "source": source}
  if name in seqio.MixtureRegistry.names():
    raise ValueError(f"{name!r} is the name of a mixture: choose another name")
  if name in seqio.TaskRegistry.names():
    present = getattr(seqio.TaskRegistry.get(name), "recipe", {})
    for key, value in recipe.items():
      if present.get(key) != value:
        raise ValueError(
          f"task {name!r} is already registered with another {key} "
          f"({present.get(key)}, now {value}): choose another name"
        )
    return name
  task = seqio.TaskRegistry.add(
    name,
    source=source,
    output_features=objective.output_features(vocabulary),
    preprocessors=list(objective.preprocessors()),
    postprocess_fn=objective.postprocess_fn,
    metric_fns=list(objective.metric_fns),
    metric_objs=list(getattr(objective, "metric_objs", ())),
    task_cls=Task,
    shuffle_buffer_size=shuffle_buffer_size,
  )
  task.recipe = recipe
  for of_task in ("examples_together", "delimiter"):
    default = getattr(Task, of_task)
    setattr(task, of_task, getattr(objective, of_task, default))
  return name
