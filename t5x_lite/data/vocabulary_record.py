"""Records a run's vocabulary, and compares that of a task with it."""

from typing import Any

import jax
from etils import epath

from t5x_lite.data.resolved_task import ResolvedTask
from t5x_lite.files import disk, json_text

_FILE = "vocabulary.json"
_MODEL = "vocabulary.model"


def write(task: ResolvedTask, model_dir: str) -> None:
  """Writes a task's vocabulary to a run's directory.

  vocabulary.json has its digest, vocabulary.model its SentencePiece model.
  """
  path = epath.Path(model_dir) / _FILE
  if jax.process_index() or path.exists():
    return
  content = {
    "task": task.name,
    "size": task.vocab_size,
    "digest": task.vocabulary_digest,
  }
  model = getattr(task.vocabulary, "sp_model", None)
  if model is not None:
    with disk.partial(path.with_name(_MODEL)) as temporary:
      temporary.write_bytes(model)
  # Written atomically, since other processes may be reading it already.
  disk.write_text(path, json_text.dumps(content, indent=2) + "\n")


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


def check(task: ResolvedTask, model_dir: str) -> None:
  """Checks that a task's ids are the same tokens as those of a run.

  Raises:
    ValueError: the run in `model_dir` was trained with another vocabulary.
  """
  path = _find(model_dir)
  if not path.exists():
    return
  there = _read(path)
  if there["digest"] != task.vocabulary_digest:
    model = path.with_name(_MODEL)
    own = f" ({model})" if model.exists() else ""
    raise ValueError(
      f"the run in {model_dir} was trained with the vocabulary of "
      f"{there['task']} ({there['size']} ids); {task.name} has another one "
      f"({task.vocab_size} ids): its ids mean other tokens. "
      f"Use the run's own vocabulary{own}, or start a new run"
    )
