"""Remembers which vocabulary a run's token ids belong to."""

import json

import jax
from etils import epath

from t5x_lite import data

_FILE = "vocabulary.json"


def write(task: str, model_dir: str) -> None:
  """Writes the digest of a task's vocabularies into a run's directory."""
  path = epath.Path(model_dir) / _FILE
  if jax.process_index() or path.exists():
    return
  content = {
    "task": task,
    "size": data.required_vocab_size(task),
    "digest": data.vocabulary_digest(task),
  }
  path.write_text(json.dumps(content, indent=2) + "\n")


def check(task: str, model_dir: str) -> None:
  """Refuses a task whose ids mean other tokens than those of the run.

  Raises:
    ValueError: the run in `model_dir` was trained with another vocabulary.
  """
  path = epath.Path(model_dir) / _FILE
  if not path.exists():
    return
  there = json.loads(path.read_text())
  if there["digest"] != data.vocabulary_digest(task):
    raise ValueError(
      f"the run in {model_dir} was trained with the vocabulary of "
      f"{there['task']} ({there['size']} ids); {task} has another one "
      f"({data.required_vocab_size(task)} ids): its ids mean other tokens. "
      "Use the run's own vocabulary, or start a new run"
    )
