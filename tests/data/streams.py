"""Datasets whose tokens say which example they are of, for tests of streams."""

import itertools

import numpy as np
import seqio
import tensorflow as tf

VOCABULARY = seqio.PassThroughVocabulary(size=1000)
LENGTHS = {"inputs": 8, "targets": 4}


def pairs(count, *, start=10):
  """Gives pairs whose tokens all say which they are: start, start + 1, ..."""

  def dataset_fn(split, shuffle_files, seed=None):
    @tf.autograph.experimental.do_not_convert  # Half of the time of a test.
    def make(i):
      return {
        "inputs": tf.fill([1 + i % 5], i + start),
        "targets": tf.fill([1 + i % 3], i + start),
      }

    return tf.data.Dataset.range(count, output_type=tf.int32).map(make)

  return dataset_fn


def shuffled_pairs(count):
  """Gives pairs in an order of the source's own, by the seed."""

  def dataset_fn(split, shuffle_files, seed=None):
    return pairs(count)(split, shuffle_files).shuffle(count, seed=seed)

  return dataset_fn


@seqio.map_over_dataset(num_seeds=1)
@tf.autograph.experimental.do_not_convert
def add_noise(example, seed):
  """Replaces a random half of the inputs."""
  inputs = example["inputs"]
  noisy = tf.random.stateless_uniform(tf.shape(inputs), seed) < 0.5
  return {**example, "inputs": tf.where(noisy, 999, inputs)}


def take(iterator, count):
  return list(itertools.islice(iterator, count))


def which(batches):
  """Lists the examples in batches, from their targets."""
  found = []
  for batch in batches:
    for tokens, segments in zip(
      batch["decoder_target_tokens"], batch["decoder_segment_ids"], strict=True
    ):
      starts = np.flatnonzero(np.diff(segments, prepend=0) > 0)
      found += tokens[starts].tolist()
  return found


def assert_equal_batches(actual, expected):
  assert len(actual) == len(expected)
  for a, b in zip(actual, expected, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name], name)


def long_pair(split, shuffle_files, seed=None):
  pair = {"inputs": tf.range(10, 30), "targets": tf.range(50, 60)}
  return tf.data.Dataset.from_tensors(pair)
