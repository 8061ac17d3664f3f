"""Trains a linear probe to tell documents apart by a frozen model's features.

A passage's features are the mean of the last layer's states, of the encoder if
there is one. A logistic regression is trained on some passages of each document
and predicts the document of the others: Alain and Bengio 2016,
arXiv:1610.01644.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from t5x_lite.data import rows
from t5x_lite.data.resolved_task import ResolvedTask
from t5x_lite.inference import probe
from t5x_lite.model import Model, Params

_FOLDS = 4


def accuracies(
  model: Model,
  params: Params,
  task: ResolvedTask,
  documents: Sequence[Sequence[str]],
  *,
  batch_size: int,
) -> list[float]:
  """Returns each document's percentage of correctly classified passages.

  Cross-validated: no passage is classified by a probe that was trained on it.

  Args:
    model: a Model.
    params: its parameters.
    task: the task with the model's vocabulary.
    documents: lists of passages, equally many for each document.
    batch_size: passages per batch.
  """
  # Imported here, as it takes a second.
  from sklearn import linear_model, model_selection, pipeline, preprocessing

  encode = task.vocabulary.encode
  ids = [list(encode(x)) for passages in documents for x in passages]
  labels = np.repeat(np.arange(len(documents)), len(documents[0]))
  classifier = pipeline.make_pipeline(
    preprocessing.StandardScaler(),
    linear_model.LogisticRegression(max_iter=1000),
  )
  folds = model_selection.StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
  found = model_selection.cross_val_predict(
    classifier,
    pooled(model, params, ids, batch_size, task.starts),
    labels,
    cv=folds,
  )
  right = (found == labels).reshape(len(documents), -1)
  return [100 * float(share) for share in right.mean(axis=1)]


def pooled(
  model: Model,
  params: Params,
  ids: Sequence[Sequence[int]],
  batch_size: int,
  starts: Mapping[str, Any] | None = None,
) -> np.ndarray:
  """Returns the mean state of each text, [texts, width]."""
  found = []
  for batch in _batches(ids, model.row_format, batch_size, starts):
    traces = probe.probe(model, params, batch)
    side = model.row_format.sides[0]
    weights_BT = np.float32(batch[f"{side}_segment_ids"] > 0)
    states_BTD = traces[side].states[-1]
    sums_BD = np.einsum("BT,BTD->BD", weights_BT, states_BTD)
    found.append(sums_BD / weights_BT.sum(axis=1, keepdims=True))
  return np.concatenate(found)[: len(ids)]


def _batches(
  ids, row_format, batch_size, starts
) -> Iterator[dict[str, np.ndarray]]:
  """Yields full batches of texts as inputs, without targets to predict."""
  ids = [*ids, *ids[: -len(ids) % batch_size]]
  examples = [row_format.reading_example(np.array(x, np.int32)) for x in ids]
  lengths = dict.fromkeys(examples[0], max(map(len, ids)))
  if row_format.generates:
    lengths["targets"] = 1
  for first in range(0, len(ids), batch_size):
    part = examples[first : first + batch_size]
    yield rows.lay_out(row_format, part, lengths, **(starts or {}))
