"""Resolves a task name to a seqio task, its features and its vocabulary."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import seqio

from t5x_lite.data import rows
from t5x_lite.files.near_names import did_you_mean, near
from t5x_lite.row_formats import FEATURES


def resolve(name: str) -> "ResolvedTask":
  """Returns the seqio task or mixture of a name.

  Raises:
    ValueError: no task has the name; the message suggests similar ones.
  """
  known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  if name in known:
    return ResolvedTask(seqio.get_mixture_or_task(name))
  there_are = f"; there are {', '.join(sorted(known)) or 'none'}"
  raise ValueError(
    f"unknown task {name!r}"
    + (did_you_mean(near(name, sorted(known))) or there_are)
  )


@dataclasses.dataclass(frozen=True)
class ResolvedTask:
  """Holds a seqio task or mixture, its features and its vocabulary.

  Attributes:
    provider: the task or mixture itself.
  """

  provider: seqio.Task | seqio.Mixture

  @property
  def name(self) -> str:
    """Returns the name in seqio's registry."""
    return self.provider.name

  @property
  def parts(self) -> Sequence[seqio.Task]:
    """Returns the tasks of a mixture, or the task itself."""
    return seqio.get_subtasks(self.provider)

  @functools.cached_property
  def features(self) -> Mapping[str, seqio.Feature]:
    """Returns the features that rows are made of, by name."""
    found = self.provider.output_features
    return {name: found[name] for name in FEATURES if name in found}

  @functools.cached_property
  def vocabulary(self) -> seqio.Vocabulary:
    """Returns the vocabulary of inputs and targets.

    Raises:
      ValueError: inputs and targets, or the tasks of a mixture, have different
        vocabularies: a model has one token embedding.
    """
    (first, vocabulary), *others = (
      (f"{feature} of {part.name}", part.output_features[feature].vocabulary)
      for part in self.parts
      for feature in ("inputs", "targets")
      if feature in part.output_features
    )
    for other, another in others:
      if another != vocabulary:
        raise ValueError(
          f"task {self.name} has two vocabularies, but a model takes one: "
          f"{first} has {vocabulary}, {other} has {another}"
        )
    return vocabulary

  @property
  def vocab_size(self) -> int:
    """Returns the number of token ids, extra ids included."""
    return self.vocabulary.vocab_size

  @property
  def delimiters(self) -> tuple[str, ...]:
    """Returns the texts between inputs and targets that continue them.

    Sorted; empty if the inputs of all parts end with EOS, so that targets are a
    separate text.
    """
    found = {
      getattr(part, "delimiter", " ")
      for part in self.parts
      if not _ends_inputs(part)
    }
    return tuple(sorted(found))

  @property
  def starts(self) -> dict[str, Any]:
    """Returns the arguments of `feature_converters.converter` for row starts.

    They are "start_id", "around" and "bare_prompts".
    """
    return rows.starts(self.vocabulary)

  @functools.cached_property
  def vocabulary_digest(self) -> str:
    """Returns a digest of all that determines how texts become ids and back.

    Equal digests mean equal vocabularies, whatever file they were read from.
    """
    vocabulary = self.vocabulary
    names = "vocab_size", "extra_ids", "eos_id", "unk_id"
    ids = [getattr(vocabulary, name) for name in names]
    start_id, *others = self.starts.values()
    # Defaults are left out, so that the digests of earlier runs stay valid.
    ids += [start_id, *(others if any(others) else ())]
    digest = hashlib.sha256(json.dumps(ids).encode())
    model = getattr(vocabulary, "sp_model", None)
    if model is None:
      # There is no model file to hash: hash the text of each id.
      pieces = [vocabulary.decode([i]) for i in range(vocabulary.vocab_size)]
      model = json.dumps(pieces, default=str).encode()
    digest.update(model)
    return digest.hexdigest()


def _ends_inputs(task: seqio.Task) -> bool:
  inputs = task.output_features.get("inputs")
  return inputs is not None and inputs.add_eos
