"""Iterates over batches; saves and restores the position in the stream."""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from etils import epath

from t5x_lite.files import json_text


@contextlib.contextmanager
def plain_errors(task: str) -> Iterator[None]:
  """Raises a failed TensorFlow assertion as a one-line ValueError."""
  try:
    yield
  except tf.errors.InvalidArgumentError as error:
    failed = re.search(r"assertion failed: (.*)", str(error))
    if not failed:
      raise
    reason = re.sub(r"[][]", "", failed[1])
    raise ValueError(f"task {task}: {reason}") from None


class BatchIterator:
  """Iterates over batches, from a position that can be saved and restored.

  The position includes shuffle buffers, unfinished packed rows and prefetched
  batches, so that a restored stream continues with exactly the same bits.

  Attributes:
    shapes: {name: shape} of the arrays of every batch, which are int32.
  """

  def __init__(
    self,
    dataset: tf.data.Dataset,
    stream: Mapping[str, Any],
    *,
    process: tuple[int, int] = (0, 1),
    if_empty: str = "the stream has no batches",
  ):
    """Starts at the beginning of a dataset.

    Args:
      dataset: dicts of dense tensors of fixed shape.
      stream: the settings that the dataset was made from, including "task". A
        position can only be restored to a stream with the same settings.
      process: (index, count); added to the settings and to file names.
      if_empty: the error message for an empty dataset.
    """
    index, count = process
    self.shapes = {
      name: tuple(spec.shape) for name, spec in dataset.element_spec.items()
    }
    # As JSON will read it back: tuples become lists.
    self._stream = json.loads(
      json_text.dumps({**stream, "process": process}, default=str)
    )
    self._name = f"data_{index:05d}_of_{count:05d}"
    self._if_empty = if_empty
    self._iterator = iter(dataset)
    self._checkpoint = tf.train.Checkpoint(iterator=self._iterator)
    self._has_given = False

  def __iter__(self) -> "BatchIterator":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    try:
      with plain_errors(self._stream["task"]):
        batch = next(self._iterator)
    except StopIteration:
      if not self._has_given:
        raise ValueError(self._if_empty) from None
      raise
    self._has_given = True
    return {name: value.numpy() for name, value in batch.items()}

  def check_resumable(self) -> None:
    """Checks that the position of the stream can be saved.

    Raises:
      ValueError: it cannot; names the operation whose state cannot be saved.
    """
    with tempfile.TemporaryDirectory() as directory:
      self.save(directory)

  def save(self, directory: str | os.PathLike) -> None:
    """Writes the position of this process to files in a directory.

    Raises:
      ValueError: the position cannot be saved: the pipeline has Python code (a
        generator, a py_function) or stateful random operations.
    """
    path = os.path.join(directory, self._name)
    try:
      self._checkpoint.write(path)
    except tf.errors.FailedPreconditionError as error:
      what = re.search(r"(\w+) is stateful", str(error))
      if not what:
        raise
      raise ValueError(
        f"task {self._stream['task']} cannot be resumed: the state of "
        f"{what[1]} cannot be saved; use only TensorFlow operations, and "
        "stateless random ones"
      ) from None
    with tf.io.gfile.GFile(f"{path}.json", "w") as file:
      file.write(json_text.dumps(self._stream, indent=2))

  def restore(self, directory: str | os.PathLike) -> None:
    """Restores the position that `save` wrote to a directory.

    Raises:
      ValueError: the directory lacks it, or has that of another stream.
    """
    path = os.path.join(directory, self._name)
    if not tf.io.gfile.exists(f"{path}.json"):
      raise ValueError(
        f"{directory} has no data position {self._name}: the run was saved by "
        "another number of processes, or without its data"
      )
    saved = json_text.read(epath.Path(f"{path}.json"))
    differences = [
      f"{name} was {saved.get(name)!r}, is {self._stream.get(name)!r}"
      for name in sorted(saved.keys() | self._stream.keys())
      if saved.get(name) != self._stream.get(name)
    ]
    if differences:
      raise ValueError(
        f"{directory} has the position of another data stream: "
        f"{'; '.join(differences)}"
      )
    self._checkpoint.read(path).assert_consumed()
    self._has_given = True
