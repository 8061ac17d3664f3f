"""Keeps a run's records: in metrics.jsonl and as TensorBoard events."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Protocol

import tensorflow as tf
from etils import epath

from t5x_lite.files import append, disk, json_text

Values = Mapping[str, float | str]


class Sink(Protocol):
  """Keeps records; trackers.py has more of them."""

  def write(self, step: int, kind: str, values: Values) -> None:
    """Keeps a record of a step: its kind ("train", "eval") and its values.

    Raises:
      ValueError: it cannot.
    """

  def close(self) -> None:
    """Ends what is under way."""


class JsonLines:
  """Appends records to a file, as JSON; what is not finite is null."""

  def __init__(self, path: epath.Path):
    self._name, self._file = path.name, append.Appended(path)

  def write(self, step: int, kind: str, values: Values) -> None:
    """Appends a record."""
    what = f"{self._name}, step {step}, {kind}"
    record = {"step": step, "kind": kind, **values}
    self._file.write(json_text.dumps(record, what=what) + "\n")

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


class TensorBoard:
  """Writes the numbers of records as TensorBoard events."""

  def __init__(self, folder: str):
    self._folder = folder
    self._events = tf.summary.create_file_writer(folder)

  def write(self, step: int, kind: str, values: Values) -> None:
    """Writes and flushes the events of a record."""
    with self._one_line_errors(), self._events.as_default(step=step):
      for name, value in values.items():
        if not isinstance(value, str):
          tf.summary.scalar(f"{kind}/{name}", value)
      self._events.flush()

  def close(self) -> None:
    """Closes the file."""
    with self._one_line_errors():
      self._events.close()

  @contextlib.contextmanager
  def _one_line_errors(self) -> Iterator[None]:
    """Turns an error of TensorFlow's writer of events into a ValueError."""
    try:
      yield
    except tf.errors.OpError as error:
      why = disk.reason(error) or error.message.partition("\n")[0]
      raise ValueError(
        f"cannot write TensorBoard events to {self._folder}: {why}"
      ) from None
