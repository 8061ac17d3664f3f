"""Gives the batches of a stream, and saves and restores the position in it."""

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
  """Raises what a check in the graph said as a ValueError of one line."""
  try:
    yield
  except tf.errors.InvalidArgumentError as error:
    failed = re.search(r"assertion failed: (.*)", str(error))
    if not failed:
      raise
    reason = re.sub(r"[][]", "", failed[1])
    raise ValueError(f"task {task}: {reason}") from None


class BatchIterator:
  """Iterates over batches; what follows a `restore` followed the `save`.

  The position includes all that is under way: shuffle buffers, rows still
  open, batches made ahead. So the stream goes on to the last bit.

  Attributes:
    shapes: name -> shape of the arrays of every batch, all of them int32.
  """

  def __init__(
    self,
    dataset: tf.data.Dataset,
    stream: Mapping[str, Any],
    *,
    process: tuple[int, int] = (0, 1),
    if_empty: str = "the stream gives no batch",
  ):
    """Starts at the beginning.

    Args:
      dataset: dicts of dense tensors of fixed shape.
      stream: what the dataset was made from, its "task" included. A position
        is only restored to a stream that was made from the same.
      process: (index, count); part of the stream and of the files' names.
      if_empty: the error for a dataset without any element.
    """
    index, count = process
    self.shapes = {
      name: tuple(spec.shape) for name, spec in dataset.element_spec.items()
    }
    # As JSON gives it back: tuples become lists.
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
    """Refuses a stream whose position cannot be saved, before it is needed.

    Raises:
      ValueError: naming what keeps no position.
    """
    with tempfile.TemporaryDirectory() as directory:
      self.save(directory)

  def save(self, directory: str | os.PathLike) -> None:
    """Writes the position into a directory, in files of this process.

    Raises:
      ValueError: for a pipeline that has none: Python code in it (a generator,
        a py_function) or random operations that are not stateless.
    """
    path = os.path.join(directory, self._name)
    try:
      self._checkpoint.write(path)
    except tf.errors.FailedPreconditionError as error:
      what = re.search(r"(\w+) is stateful", str(error))
      if not what:
        raise
      raise ValueError(
        f"task {self._stream['task']} cannot be resumed: {what[1]} in it keeps "
        "no position; use TensorFlow operations, and stateless random ones"
      ) from None
    with tf.io.gfile.GFile(f"{path}.json", "w") as file:
      file.write(json_text.dumps(self._stream, indent=2))

  def restore(self, directory: str | os.PathLike) -> None:
    """Returns to the position that `save` wrote into a directory.

    Raises:
      ValueError: if it is not there, or is one of another stream.
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
