"""Wraps Python functions of vocabularies as TensorFlow ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from t5x_lite.data import sentinels

_HAS_SENTINELS = f"(?s).*{sentinels.SENTINEL.pattern}.*"


def has_sentinels(text: tf.Tensor) -> tf.Tensor:
  """Returns whether a scalar string has a sentinel, in TensorFlow."""
  return tf.strings.regex_full_match(text, _HAS_SENTINELS)


def encode(function: Callable[[str], Sequence[int]], s: tf.Tensor) -> tf.Tensor:
  """Encodes a scalar string with a Python function: int32 [n].

  Args:
    function: maps a text to ids. It must be deterministic, as the op is marked
      stateless so that iterators can be checkpointed.
    s: the text, in UTF-8.
  """

  def ids_of(text) -> np.ndarray:
    # Bytes in a graph, an array with one string in eager mode.
    text = text if isinstance(text, bytes) else text.item()
    return np.array(function(tf.compat.as_text(text)), np.int32)

  ids = tf.numpy_function(ids_of, [s], tf.int32, stateful=False)
  return tf.ensure_shape(ids, [None])


def decode(
  function: Callable[[Sequence[int]], str], ids: tf.Tensor
) -> tf.Tensor:
  """Decodes a vector of ids with a Python function: a scalar string."""
  text = tf.numpy_function(
    lambda row: function(row).encode(), [ids], tf.string, stateful=False
  )
  return tf.ensure_shape(text, [])
