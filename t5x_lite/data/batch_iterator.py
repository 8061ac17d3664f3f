"""Iterates over batches; saves and restores the position in the stream."""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from etils import epath

from t5x_lite.data import damaged_records
from t5x_lite.files import json_text


@contextlib.contextmanager
def plain_errors(
  task: str, files: Callable[[], Iterable[str]] = tuple
) -> Iterator[None]:
  """Raises a failed assertion or a damaged record as a one-line ValueError.

  Args:
    task: the name of the task.
    files: returns the files that the task reads.
  """
  try:
    yield
  except tf.errors.DataLossError as error:
    damage = damaged_records.describe(error, files())
    raise ValueError(f"task {task}: {damage}") from None
  except tf.errors.InvalidArgumentError as error:
    failed = re.search(r"assertion failed: (.*)", str(error))
    if not failed:
      raise
    reason = re.sub(r"[][]", "", failed[1])
    raise ValueError(f"task {task}: {reason}") from None


class Stream:
  """Iterates over a stream of rows; saves and restores the position in it.

  The position includes shuffle buffers, unfinished packed rows and prefetched
  rows, so that a restored stream continues with exactly the same bits. It is
  stored under the stream's number, whichever process has read the stream.

  Attributes:
    task: the name of the task.
    shapes: {name: shape} of the arrays of each element, which are int32.
  """

  def __init__(
    self,
    dataset: tf.data.Dataset,
    settings: Mapping[str, Any],
    *,
    shard: tuple[int, int] = (0, 1),
    files: Callable[[], Iterable[str]] = tuple,
  ):
    """Starts at the beginning of a dataset.

    Args:
      dataset: dicts of dense tensors of fixed shape.
      settings: what the dataset was made from, including "task". A position can
        only be restored to a stream with the same settings.
      shard: (number of this stream, number of all streams); added to the
        settings and to file names.
      files: returns the files that are read, to name a damaged one.
    """
    self._files = files
    self.task = settings["task"]
    self.shapes = {
      name: tuple(spec.shape) for name, spec in dataset.element_spec.items()
    }
    # As JSON will read it back: tuples become lists.
    self._settings = json.loads(
      json_text.dumps({**settings, "stream": shard}, default=str)
    )
    self._name = f"data_{shard[0]:05d}_of_{shard[1]:05d}"
    self._iterator = iter(dataset)
    self._checkpoint = tf.train.Checkpoint(iterator=self._iterator)

  def __next__(self) -> dict[str, np.ndarray]:
    with plain_errors(self.task, self._files):
      rows = next(self._iterator)
    return {name: value.numpy() for name, value in rows.items()}

  def save(self, directory: str | os.PathLike) -> None:
    """Writes the position to files in a directory.

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
        f"task {self.task} cannot be resumed: the state of "
        f"{what[1]} cannot be saved; use only TensorFlow operations, and "
        "stateless random ones"
      ) from None
    with tf.io.gfile.GFile(f"{path}.json", "w") as file:
      file.write(json_text.dumps(self._settings, indent=2))

  def restore(self, directories: Sequence[str | os.PathLike]) -> None:
    """Restores the position that `save` wrote to one of several directories.

    Raises:
      ValueError: none has it, or it is that of another stream.
    """
    paths = [os.path.join(folder, self._name) for folder in directories]
    path = next((p for p in paths if tf.io.gfile.exists(f"{p}.json")), None)
    if path is None:
      raise ValueError(
        f"{directories[0]} has no data position {self._name}: the run was "
        "saved with another Data.num_streams, or without its data"
      )
    saved = json_text.read(epath.Path(f"{path}.json"))
    if "process" in saved:  # Earlier versions had one stream per process.
      saved["stream"] = saved.pop("process")
    differences = [
      f"{name} was {saved.get(name)!r}, is {self._settings.get(name)!r}"
      for name in sorted(saved.keys() | self._settings.keys())
      if saved.get(name) != self._settings.get(name)
    ]
    if differences:
      raise ValueError(
        f"{os.path.dirname(path)} has the position of another data stream: "
        f"{'; '.join(differences)}"
      )
    self._checkpoint.read(path).assert_consumed()


class BatchIterator:
  """Iterates over a process's batches, from a position that can be saved.

  Attributes:
    shapes: {name: shape} of the arrays of every batch, which are int32.
  """

  def __init__(
    self,
    streams: Sequence[Stream],
    *,
    rows: slice = slice(None),
    saves: bool = True,
    if_empty: str = "the stream has no batches",
  ):
    """Joins the rows of streams.

    Args:
      streams: the streams that this process reads.
      rows: the rows of a batch to return, of those that the streams give.
      saves: whether this process saves positions: of several processes that
        read a stream, one does.
      if_empty: the error message for streams without batches.
    """
    self._streams, self._rows, self._saves = streams, rows, saves
    self._if_empty = if_empty
    self._has_given = False
    self.shapes = {
      name: (len(range(len(streams) * size)[rows]), *shape)
      for name, (size, *shape) in streams[0].shapes.items()
    }

  def __iter__(self) -> "BatchIterator":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    try:
      blocks = [next(stream) for stream in self._streams]
    except StopIteration:
      if not self._has_given:
        raise ValueError(self._if_empty) from None
      raise
    self._has_given = True
    return {
      name: np.concatenate([block[name] for block in blocks])[self._rows]
      for name in self.shapes
    }

  def check_resumable(self) -> None:
    """Checks that the positions of the streams can be saved.

    Raises:
      ValueError: one cannot; names the operation whose state cannot be saved.
    """
    with tempfile.TemporaryDirectory() as directory:
      for stream in self._streams:
        stream.save(directory)

  def save(self, directory: str | os.PathLike) -> None:
    """Writes the positions of this process's streams to a directory.

    Raises:
      ValueError: a position cannot be saved.
    """
    for stream in self._streams if self._saves else ():
      stream.save(directory)

  def restore(self, directories: Sequence[str | os.PathLike]) -> None:
    """Restores the positions of this process's streams.

    Args:
      directories: those of all processes that saved, however many.

    Raises:
      ValueError: a position is missing, or is that of another stream.
    """
    for stream in self._streams:
      stream.restore(directories)
    self._has_given = True
