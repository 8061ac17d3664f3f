"""Runs objectives and tasks over small texts."""

import seqio
import tensorflow as tf

from tasks import sources, vocabularies
from tasks.task import Task

BYTES = vocabularies.Bytes()


def examples(objective, lengths, *texts, vocabulary=BYTES, seed=0):
  """Returns the examples that an objective makes of documents."""
  task = seqio.Task(
    "under_test",
    source=sources.MemorySource("memory", {"train": {"text": list(texts)}}),
    output_features=objective.output_features(vocabulary),
    preprocessors=list(objective.preprocessors()),
  )
  dataset = tf.data.Dataset.from_tensor_slices({"text": list(texts)})
  dataset = task.preprocess_precache(dataset)
  dataset = task.preprocess_postcache(dataset, lengths, seed=seed)
  return list(dataset.as_numpy_iterator())


def task(name, objective, texts, *, vocabulary=BYTES, shuffle_buffer_size=8):
  """Makes a task over documents in memory, in no registry."""
  columns = {"train": {"text": texts}, "validation": {"text": texts[:2]}}
  return Task(
    name,
    source=sources.MemorySource("memory", columns),
    output_features=objective.output_features(vocabulary),
    preprocessors=list(objective.preprocessors()),
    postprocess_fn=objective.postprocess_fn,
    metric_fns=list(objective.metric_fns),
    shuffle_buffer_size=shuffle_buffer_size,
  )
