"""Registers a source and an objective as a seqio task.

seqio hands the same seed to every task and to every shard, so two tasks over
one text, or two hosts, would draw the same noise in the same order. `Task`
folds its name into all seeds, and the shard into those of the noise. (Not into
the order: a source that shuffles first and shards then needs one order.)
"""

from __future__ import annotations

import contextvars
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import seqio
import tensorflow as tf

from tasks import cache

# Our sources shuffle whole documents already; this parts the windows of one. A
# larger buffer would have to be filled before the first step, and be saved.
SHUFFLED_EXAMPLES = 256

_shard: contextvars.ContextVar[seqio.ShardInfo | None] = contextvars.ContextVar(
  "shard", default=None
)


class Objective(Protocol):
  """Says how documents become examples; see tasks/span_corruption.py.

  An objective is a frozen dataclass, so that two equal ones are one task.
  """

  def output_features(
    self, vocabulary: seqio.Vocabulary
  ) -> Mapping[str, seqio.Feature]:
    """Returns the features of an example."""

  def preprocessors(self) -> Sequence[Callable[..., tf.data.Dataset]]:
    """Returns the steps from a source's examples to those features."""

  @property
  def metric_fns(self) -> Sequence[Callable]:
    """Metrics of predictions, for seqio.Evaluator; may be empty."""

  @property
  def postprocess_fn(self) -> Callable | None:
    """Turns decoded text into what `metric_fns` compare."""


class Task(seqio.Task):
  """Draws its own noise and order: unlike any other task's or shard's.

  Its preprocessors are traced as they stand: they branch on tensors by tf.cond
  and tf.where, never by `if`. Letting AutoGraph rewrite them, which none of
  ours needs, took a second of every start.

  Attributes:
    examples_together: so many that follow one another fill a row together, and
      are shuffled as one.
    delimiter: what stands between inputs and targets, where these continue the
      inputs as one text.
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
        f"{', '.join(map(repr, self.splits))}{did_you_mean(split, self.splits)}"
      )
    # seqio's cache of small sources repeats the first epoch's order for ever
    # and puts the whole text into each iterator checkpoint.
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


def did_you_mean(name: str, known: Iterable[str]) -> str:
  """Returns "; did you mean 'train'?" where one is like the name, or ""."""
  close = difflib.get_close_matches(name, list(known), n=1)
  return f"; did you mean {close[0]!r}?" if close else ""


def fold(seed: int | None, name: str) -> int | None:
  """Derives a seed of 62 bits; no seed (None) stays no seed.

  Maps take consecutive seeds, so 32 bits would let two of some thousand
  (task, shard) pairs overlap.
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

  Doing so again with equal arguments is no error: a gin file evaluates
  `@text_task()` once for each place where it stands.
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
