"""Runs a vocabulary's Python code inside TensorFlow's graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf


def encode(function: Callable[[str], Sequence[int]], s: tf.Tensor) -> tf.Tensor:
  """Tokenises a scalar string by Python: int32 [n].

  Args:
    function: from a text to ids; the same text gives the same ids, so that the
      position of an iterator can be saved.
    s: the text, in UTF-8.
  """

  def ids_of(text) -> np.ndarray:
    # Bytes in a graph; outside of one an array that holds a string.
    text = text if isinstance(text, bytes) else text.item()
    return np.array(function(tf.compat.as_text(text)), np.int32)

  ids = tf.numpy_function(ids_of, [s], tf.int32, stateful=False)
  return tf.ensure_shape(ids, [None])


def decode(
  function: Callable[[Sequence[int]], str], ids: tf.Tensor
) -> tf.Tensor:
  """Returns the text of a vector of ids by Python, as a scalar string."""
  text = tf.numpy_function(
    lambda row: function(row).encode(), [ids], tf.string, stateful=False
  )
  return tf.ensure_shape(text, [])
