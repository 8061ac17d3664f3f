"""Scores tokens under a model, in the format that it was trained on."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.data import sentinels
from t5x_lite.data.resolved_task import ResolvedTask
from t5x_lite.data.sentinels import Vocabulary
from t5x_lite.devices.layout import Layout
from t5x_lite.inference import batched, infer
from t5x_lite.model import Model, Params
from t5x_lite.row_formats import RowFormat


@dataclasses.dataclass(frozen=True)
class Format:
  """Describes a prompt format; measures.py draws them.

  Attributes:
    kind: "text", "prefix", "sentinel" or "pseudo".
    mode: the N of the mode token <extra_id_N> before the inputs, or None.
  """

  kind: str
  mode: int | None = None

  @property
  def name(self) -> str:
    """Returns the format's name for a table."""
    return self.kind if self.mode is None else f"{self.kind}, mode {self.mode}"

  def arrange(
    self, question: Any, vocabulary: Vocabulary
  ) -> tuple[list[int], list[int], int]:
    """Returns inputs, targets, and where the scored tokens begin in targets."""
    mode = [] if self.mode is None else [_sentinel(vocabulary, self.mode)]
    left, scored = [*mode, *question.left], list(question.scored)
    if self.kind == "text":
      return [], [*left, *scored], len(left)
    if self.kind == "prefix":
      return left, scored, 0
    blank = _sentinel(vocabulary, 0)
    end = sentinels.require_eos(vocabulary, "the format of span corruption")
    inputs = [*left, blank, *question.right, end]
    return inputs, [blank, *scored], 1


def formats(
  task: ResolvedTask, row_format: RowFormat, modes: Sequence[int]
) -> list[Format]:
  """Returns the formats that a model may have been trained on by a task."""
  if not row_format.generates:
    return [Format("pseudo")]
  if "inputs" not in task.features:
    return [Format("text")]
  kinds = (
    ("prefix", "sentinel")
    if sentinels.sentinel_ids(task.vocabulary)
    else ("prefix",)
  )
  return [Format(kind, mode) for kind in kinds for mode in (None, *modes)]


class Scorer:
  """Scores questions under a model."""

  def __init__(
    self,
    model: Model,
    params: Params,
    task: ResolvedTask,
    *,
    batch_size: int,
    layout: Layout | None,
  ):
    self._model, self._params = model, params
    self._task, self._vocabulary = task, task.vocabulary
    self._batch_size, self._layout = batch_size, layout

  def __call__(self, asked: Sequence[Any], form: Format) -> np.ndarray:
    """Returns -log p of each question's scored tokens, in nats, float64."""
    if form.kind == "pseudo":
      return self._pseudo(asked)
    arranged = [form.arrange(q, self._vocabulary) for q in asked]
    starts = np.array([start for *_, start in arranged], np.int32)
    records = [{"ids": ids} for *ids, _ in arranged]
    job = _Score(
      model=self._model,
      codec=_codec(self._task, self._model.row_format, records),
      starts=starts,
      stops=starts + np.array([len(q.scored) for q in asked], np.int32),
    )
    results = infer.run(
      job, self._params, records, batch_size=self._batch_size,
      layout=self._layout,
    )  # fmt: skip
    return -np.array([result["log_likelihood"] for result in results])

  def _pseudo(self, asked) -> np.ndarray:
    """Scores each token given those before it, with the rest masked."""
    rows = [(n, i) for n, q in enumerate(asked) for i in range(len(q.scored))]
    size = batched.round_up(self._batch_size, self._layout)
    length = max(len(q.left) + len(q.scored) + len(q.right) for q in asked)
    found = np.zeros(len(asked))

    def batches():
      for first in range(0, len(rows), size):
        part = rows[first : first + size]
        batch = [self._masked_row(asked[n], i, length) for n, i in part]
        ids = np.arange(first, first + len(part), dtype=np.int32)
        yield ids, {k: np.stack([row[k] for row in batch]) for k in batch[0]}

    def compute(batch, row_ids):
      del row_ids
      return {"scores": _scores(self._model, self._params, batch)}

    for ids, results in batched.compute(
      compute, batches(), batch_size=size, layout=self._layout
    ):
      for i, score in zip(ids, results["scores"], strict=True):
        found[rows[i][0]] -= float(score)
    return found

  def _masked_row(self, question, known, length):
    left = [*question.left, *question.scored[:known]]
    masks = [_sentinel(self._vocabulary, 0)] * (len(question.scored) - known)
    row = {
      "encoder_input_tokens": [*left, *masks, *question.right],
      "encoder_target_tokens": [0] * len(left) + [question.scored[known]],
      "encoder_loss_weights": [0] * len(left) + [1],
    }
    whole = len(row["encoder_input_tokens"])
    row["encoder_segment_ids"] = [1] * whole
    row["encoder_positions"] = list(range(whole))
    return {
      name: np.pad(np.array(value, np.int32), (0, length - len(value)))
      for name, value in row.items()
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Score(infer.Score):
  """Scores a range of the targets, given as token ids."""

  starts: np.ndarray
  stops: np.ndarray

  def encode(self, record):
    inputs, targets = record.fields["ids"]
    return {
      "inputs": np.array(inputs, np.int32),
      "targets": np.array(targets, np.int32),
    }

  def compute(self, params, batch, row_ids):
    starts_B = jnp.asarray(self.starts)[row_ids]
    stops_B = jnp.asarray(self.stops)[row_ids]
    return _score_range(self.model, params, batch, starts_B, stops_B)

  def result(self, fields, row):
    return {"log_likelihood": float(row["scores"])}


@functools.partial(jax.jit, static_argnums=0)
def _score_range(model, params, batch, start_B, stop_B):
  weights_BT = batch["decoder_loss_weights"]
  place_BT = jnp.cumsum(weights_BT, axis=1) - 1
  inside_BT = (place_BT >= start_B[:, None]) & (place_BT < stop_B[:, None])
  batch = {**batch, "decoder_loss_weights": weights_BT * inside_BT}
  return {"scores": model.score(params, batch)}


@functools.partial(jax.jit, static_argnums=0)
def _scores(model, params, batch):
  return model.score(params, batch)


def generate(
  model: Model,
  params: Params,
  task: ResolvedTask,
  asked: Sequence[Any],
  form: Format,
  *,
  layout: Layout | None = None,
) -> list[str]:
  """Returns greedy predictions of the scored parts, as texts."""
  records = []
  for question in asked:
    inputs, targets, start = form.arrange(question, task.vocabulary)
    given = targets[:start] if form.kind == "text" else inputs
    records.append({"ids": [given, []]})
  longest = max(len(question.scored) for question in asked) + 2
  job = _Generate(
    model=model,
    codec=_codec(task, model.row_format, records, room=longest),
    max_new_tokens=longest,
  )
  results = infer.run(
    job, params, records, batch_size=len(records), layout=layout
  )
  return [_first_span(result["prediction"]) for result in results]


def _first_span(prediction: str) -> str:
  """Returns a denoiser's prediction for the first blank."""
  # Splitting at the pattern's group gives text, number, text, ..., text.
  before, *rest = sentinels.SENTINEL.split(prediction)
  return before.strip() or (rest[1].strip() if rest else "")


def _codec(task, row_format, records, *, room=0) -> infer.Codec:
  """Returns the codec of a task, with room for the records."""
  inputs, targets = (
    max(len(record["ids"][side]) for record in records) for side in (0, 1)
  )
  lengths = {"inputs": inputs, "targets": targets + room}
  if "inputs" not in task.features:  # They share one length.
    lengths = {"targets": inputs + targets + room}
  return infer.codec(task, row_format, lengths)


class _Generate(infer.Generate):
  """Continues token ids."""

  def encode(self, record):
    return {
      "inputs": np.array(record.fields["ids"][0], np.int32),
      "targets": np.zeros(0, np.int32),
    }

  def result(self, fields, row):
    ids = row["tokens"][: int(row["lengths"])]
    return {"prediction": self.codec.decode(ids)}


def _sentinel(vocabulary, number: int) -> int:
  return sentinels.sentinel_ids(vocabulary)[number]
