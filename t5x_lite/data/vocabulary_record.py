"""Records a run's vocabulary and text features; compares a task with them.

    RUN/vocabulary.json     the digest of the vocabulary, and a task's features
    RUN/vocabulary.model    its SentencePiece model, or
    RUN/vocabulary/         its tokenizer.json

So commands that read and write text need neither seqio nor the task itself.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
from etils import epath

from t5x_lite.data import recorded_vocabulary, rows
from t5x_lite.files import disk, json_text

_FILE = "vocabulary.json"


class Task(Protocol):
  """Describes what is recorded of a task, as `ResolvedTask` has it."""

  name: str
  vocab_size: int
  vocabulary_digest: str
  vocabulary: Any
  features: Mapping[str, Any]
  delimiters: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Feature:
  """Holds a text's vocabulary and whether it ends with EOS, as in seqio."""

  vocabulary: Any
  add_eos: bool


@dataclasses.dataclass(frozen=True)
class TextTask:
  """Holds what a run records of its task: how texts become tokens.

  Attributes:
    name: the task's.
    features: by name, those that rows are made of.
    delimiters: what stands between inputs and targets that continue them, one
      for each way among the task's parts; empty if inputs end with EOS.
  """

  name: str
  features: Mapping[str, Feature]
  delimiters: tuple[str, ...]

  @property
  def vocabulary(self) -> Any:
    """Returns the vocabulary of inputs and targets."""
    return next(iter(self.features.values())).vocabulary

  @property
  def vocab_size(self) -> int:
    """Returns the number of token ids, extra ids included."""
    return self.vocabulary.vocab_size

  @property
  def starts(self) -> dict[str, Any]:
    """Returns the arguments of `rows.lay_out` for row starts."""
    return rows.starts(self.vocabulary)


def write(task: Task, model_dir: str) -> None:
  """Writes a task's vocabulary and features to a run's directory.

  The record of an earlier version, without features, is completed.
  """
  path = epath.Path(model_dir) / _FILE
  if jax.process_index() or (path.exists() and "features" in _read(path)):
    return
  content = {
    "task": task.name,
    "size": task.vocab_size,
    "digest": task.vocabulary_digest,
  }
  recorded = recorded_vocabulary.write(task.vocabulary, path.parent)
  if recorded is not None:
    content |= {
      "features": {name: f.add_eos for name, f in task.features.items()},
      "delimiters": list(task.delimiters),
      "vocabulary": recorded,
    }
  # Written atomically, since other processes may be reading it already.
  disk.write_text(path, json_text.dumps(content, indent=2) + "\n")


def read(model_dir: str) -> TextTask | None:
  """Returns what a run records of its task.

  Returns:
    None for a run of an earlier version, or whose vocabulary is of a class of
    the user's: its task has to be loaded.

  Raises:
    ValueError: the record or a file of the vocabulary is damaged.
  """
  path = _find(model_dir)
  if not path.exists():
    return None
  there = _read(path)
  if "features" not in there:
    return None
  try:
    vocabulary = recorded_vocabulary.read(there["vocabulary"], path.parent)
    return TextTask(
      name=there["task"],
      features={
        name: Feature(vocabulary, add_eos)
        for name, add_eos in there["features"].items()
      },
      delimiters=tuple(there["delimiters"]),
    )
  except (AttributeError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path} is damaged ({type(error).__name__}: {error}): restore it from a "
      "copy, or delete it: the run's task is loaded then"
    ) from None


def size(model_dir: str) -> int | None:
  """Returns the number of ids of a run's vocabulary, or None if unrecorded."""
  path = _find(model_dir)
  return _read(path)["size"] if path.exists() else None


def _find(model_dir: str) -> epath.Path:
  """Returns the record's path, given a run or one of its checkpoint steps."""
  path = epath.Path(model_dir).expanduser()
  is_step = path.parent.name == "checkpoints"
  return (path.parent.parent if is_step else path) / _FILE


def _read(path: epath.Path) -> dict[str, Any]:
  return json_text.read(
    path,
    "task",
    "size",
    "digest",
    remedy="restore it from a copy, or delete it: train writes it anew",
  )


def check(task: Task, model_dir: str) -> None:
  """Checks that a task's ids are the same tokens as those of a run.

  Raises:
    ValueError: the run in `model_dir` was trained with another vocabulary.
  """
  path = _find(model_dir)
  if not path.exists():
    return
  there = _read(path)
  if there["digest"] != task.vocabulary_digest:
    model = path.with_name(recorded_vocabulary.MODEL)
    own = f" ({model})" if model.exists() else ""
    raise ValueError(
      f"the run in {model_dir} was trained with the vocabulary of "
      f"{there['task']} ({there['size']} ids); {task.name} has another one "
      f"({task.vocab_size} ids): its ids mean other tokens. "
      f"Use the run's own vocabulary{own}, or start a new run"
    )
