"""Accounts for the cells of a study before any of them is trained.

FLOPs and parameters are exact (accounting.py); tokens are counted on the first
batches that the cell will read, and on the first documents of its source.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import seqio

from t5x_lite.ablation.study import Budget
from t5x_lite.accounting import costs
from t5x_lite.data import batches, task_examples, token_counts
from t5x_lite.training import bench
from t5x_lite.training.run import Run

_BATCHES = 8
_DOCUMENTS = 64
# Enough for some epochs of a corpus as small as python_docs.
_HASHED_DOCUMENTS = 2000
_CALIBRATION_STEPS = 3
# The speed of a machine drifts: a ratio is of runs that follow each other.
_ROUNDS, _STEPS_OF_A_ROUND = 3, 15

Account = dict[str, Any]


def account(run: Run) -> Account:
  """Says what one step of a run costs, and what it reads.

  Returns:
    "architecture", "parameters", "parameters_without_embeddings",
    "flops_per_step", "flops_per_step_without_head", "memory_bytes",
    "positions_per_step", and, as means of the first batches,
    "tokens_per_step" (padding apart), "loss_tokens_per_step",
    "source_tokens_per_step" (of the documents, before the objective),
    "padding_fraction", "loss_fraction" (of the tokens).

  Raises:
    ValueError: the task and the architecture do not go together, or whatever
      data.check refuses.
  """
  model = _model(run)
  described = costs.describe(
    model,
    batch_size=run.train.batch_size,
    lengths=run.train.lengths,
    optimizer=run.optimizer,
    microbatches=run.microbatches,
    platform=jax.default_backend(),
  )
  counts = _token_counts(run, model.row_format)
  parameters = described["parameters"]
  embeddings = sum(
    count
    for name, count in parameters["by_component"].items()
    if name in ("token_embedding", "head")
  )
  return {
    "architecture": model.row_format.name,
    "parameters": parameters["total"],
    "parameters_without_embeddings": parameters["total"] - embeddings,
    "flops_per_step": described["flops_per_step"],
    "flops_per_step_without_head": described["flops"]["training_without_head"],
    "memory_bytes": described["bytes"]["total"],
    "positions_per_step": described["tokens_per_step"],
    "tokens_per_step": counts["tokens"],
    "loss_tokens_per_step": counts["loss_tokens"],
    "source_tokens_per_step": counts["examples"]
    * _source_tokens_per_example(run, model.row_format, counts),
    "padding_fraction": 1 - counts["tokens"] / counts["positions"],
    "loss_fraction": counts["loss_tokens"] / counts["tokens"],
  }


def steps(of: Account, budget: Budget) -> int:
  """Returns how many steps use a budget up, rounded to the nearest.

  Raises:
    ValueError: not even one does, or it is not known what one costs.
  """
  cost = _cost_of_a_step(of, budget)
  if math.isnan(cost):
    raise ValueError(
      f"Budget.unit={budget.unit!r} needs the FLOPs of a step, which cannot "
      "be read with this version of JAX: choose 'loss_tokens' or 'steps'"
    )
  count = round(budget.amount / cost)
  if count < 1:
    raise ValueError(
      f"Budget.amount ({budget.amount:g} {budget.unit}) is less than one step "
      f"({cost:g}): raise it, or lower the batch size"
    )
  return count


def _cost_of_a_step(of, budget) -> float:
  if budget.unit == "steps":
    return 1.0
  if budget.unit == "flops" and not budget.embeddings:
    return of["flops_per_step_without_head"]
  name = {"seconds": "step_seconds"}.get(budget.unit, f"{budget.unit}_per_step")
  return of[name]


def totals(of: Account, count: int) -> dict[str, float]:
  """Returns what a number of steps amounts to, in the units of budgets."""
  return {
    "steps": count,
    "flops": count * of["flops_per_step"],
    "source_tokens": count * of["source_tokens_per_step"],
    "loss_tokens": count * of["loss_tokens_per_step"],
    "tokens": count * of["tokens_per_step"],
    "seconds": count * of["step_seconds"],
  }


def check_parameters(accounts: dict[str, Account], budget: Budget) -> None:
  """Refuses cells whose sizes differ by more than a budget allows."""
  if budget.parameters_within is None:
    return
  (first, one), *others = accounts.items()
  for name, other in others:
    ratio = other["parameters"] / one["parameters"]
    if abs(ratio - 1) > budget.parameters_within:
      raise ValueError(
        f"{name} has {other['parameters']:,} parameters and {first} "
        f"{one['parameters']:,}, which differ by more than "
        f"Budget.parameters_within ({budget.parameters_within})"
      )


def calibrate(run: Run) -> float:
  """Times a few training steps on this device; returns FLOP/s of the model."""
  return _bench(run, _CALIBRATION_STEPS)["flops_per_s"]


def step_ratios(
  runs: Mapping[str, Run], baseline: str
) -> dict[str, dict[str, Any]]:
  """Times a training step of each cell, as a multiple of the baseline's.

  Args:
    runs: cell -> its run.
    baseline: one of the cells.

  Returns:
    Cell -> "ratio", of steps of synthetic tokens timed in turns on this device,
    the mean of 3 rounds, and "range", of the rounds; for all but the baseline.
  """
  rounds = [
    {
      name: _bench(run, _STEPS_OF_A_ROUND)["step_ms_median"]
      for name, run in runs.items()
    }
    for _ in range(_ROUNDS)
  ]
  ratios = {
    name: [times[name] / times[baseline] for times in rounds]
    for name in runs
    if name != baseline
  }
  return {
    name: {"ratio": float(np.mean(of)), "range": [min(of), max(of)]}
    for name, of in ratios.items()
  }


def _bench(run, steps) -> dict[str, Any]:
  return bench.bench(
    _model(run),
    run.optimizer,
    batch_size=run.train.batch_size,
    lengths=run.train.lengths,
    microbatches=run.microbatches,
    steps=steps,
    layout=run.layout,
  )


def documents_sha256(run: Run) -> str:
  """Returns a digest of the documents that a run reads first, in order.

  Equal digests prove that two arms are fed the same text; what each objective
  makes of it is its own.
  """
  spec, digest = run.train, hashlib.sha256()
  for task in seqio.get_subtasks(batches.get_task(spec.task)):
    # What they depend on: the task's name where the order has none.
    known = (
      task.source, spec.document_order or task.name,
      spec.cache_dir and task.name, spec.cache_dir, spec.split, spec.shuffle,
      spec.seed,
    )  # fmt: skip
    if known not in _digests:
      _digests[known] = _first_documents_sha256(task, spec)
    digest.update(_digests[known])
  return digest.hexdigest()


# Arms share them, and it takes seconds.
_digests: dict[tuple, bytes] = {}


def _first_documents_sha256(task, spec) -> bytes:
  digest = hashlib.sha256()
  ds = task_examples.documents(task, spec).repeat().take(_HASHED_DOCUMENTS)
  for document in ds.as_numpy_iterator():
    for name in sorted(document):
      content = _as_bytes(document[name])
      digest.update(len(content).to_bytes(8, "little") + content)
  return digest.digest()


def _as_bytes(value) -> bytes:
  """Returns the content of a field: a text, numbers, or several texts."""
  if isinstance(value, bytes):
    return value
  value = np.asarray(value)
  if value.dtype == object:  # tobytes would give addresses
    return repr(value.tolist()).encode()
  return value.tobytes()


def _fields(task, spec):
  return task_examples.documents(task, spec).element_spec


def _model(run):
  return run.model.fit_vocabulary(batches.required_vocab_size(run.train.task))


def _token_counts(run, row_format) -> dict[str, float]:
  """Returns the mean token counts of the first batches."""
  stream = itertools.islice(batches.batches(run.train, row_format), _BATCHES)
  counts = [token_counts.count(batch) for batch in stream]
  return {
    name: float(np.mean([count[name] for count in counts]))
    for name in counts[0]
  }


def _source_tokens_per_example(run, row_format, counts) -> float:
  """Returns how many tokens of documents make one example.

  Exact for any objective: documents in, examples out. Where examples are made
  of no document (questions and answers), they are themselves the source.
  """
  provider = batches.get_task(run.train.task)
  parts = seqio.get_subtasks(provider)
  if any("text" not in _fields(task, run.train) for task in parts):
    return counts["tokens"] / counts["examples"]
  spec = dataclasses.replace(run.train, shuffle=False)
  lengths = batches.feature_lengths(spec, row_format)
  lengths = {k: v for k, v in lengths.items() if k != "decoder"}
  total, rates = 0.0, 0.0
  for task in parts:
    rate = 1.0 if provider is task else provider.get_rate(task)
    vocabulary = task.output_features["targets"].vocabulary
    ds = task_examples.documents(task, spec).take(_DOCUMENTS)
    tokens = sum(
      len(vocabulary.encode(document["text"].decode()))
      for document in ds.as_numpy_iterator()
    )
    once = task.preprocess_precache(ds, seed=spec.seed)
    made = task.preprocess_postcache(once, lengths, seed=spec.seed)
    total += rate * tokens / sum(1 for _ in made)
    rates += rate
  return total / rates
