"""Computes the costs and step counts of a study's cells before training.

FLOPs and parameters are exact (accounting/costs.py). Tokens are counted on the
first batches that the cell will read and the first documents of its source.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from t5x_lite.ablation.study import Budget
from t5x_lite.accounting import fitting
from t5x_lite.data import task_examples, token_counts
from t5x_lite.data.reader import Reader
from t5x_lite.data.resolved_task import resolve
from t5x_lite.files.slow import counted
from t5x_lite.training import bench
from t5x_lite.training.run import Run

_BATCHES = 8
_DOCUMENTS = 64
# Several epochs of a corpus as small as python_docs.
_HASHED_DOCUMENTS = 2000
_CALIBRATION_STEPS = 3
# Machine speed drifts, so all cells are timed in turn, in several rounds.
_ROUNDS, _STEPS_OF_A_ROUND = 3, 15

Account = dict[str, Any]


def account(run: Run) -> Account:
  """Returns the cost of one step of a run, and the tokens that it reads.

  Returns:
    "architecture", "parameters", "parameters_without_embeddings",
    "flops_per_step", "flops_per_step_without_head", "memory_bytes",
    "positions_per_step", and, as means of the first batches,
    "tokens_per_step" (without padding), "loss_tokens_per_step",
    "source_tokens_per_step" (of the documents, before the objective),
    "padding_fraction", "loss_fraction" (of the tokens).

  Raises:
    ValueError: the data cannot be read (see `Reader`).
  """
  reader = Reader(run.train, run.model.row_format)
  model = run.model.fit_vocabulary(reader.task.vocab_size)
  model, _, described = fitting.fit(
    model,
    batch_size=run.train.batch_size,
    lengths=run.train.lengths,
    optimizer=run.optimizer,
    microbatches=run.microbatches,
    layout=run.layout,
  )
  counts = _token_counts(reader)
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
    * _source_tokens_per_example(reader, counts),
    **token_counts.fractions(counts),
  }


def steps(of: Account, budget: Budget) -> int:
  """Returns the number of steps that a budget pays for, rounded to nearest.

  Raises:
    ValueError: the budget is less than one step, or a step's cost is unknown.
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
  """Returns the total of a number of steps in each unit of budgets."""
  return {
    "steps": count,
    "flops": count * of["flops_per_step"],
    "source_tokens": count * of["source_tokens_per_step"],
    "loss_tokens": count * of["loss_tokens_per_step"],
    "tokens": count * of["tokens_per_step"],
    "seconds": count * of["step_seconds"],
  }


def check_parameters(accounts: dict[str, Account], budget: Budget) -> None:
  """Refuses cells whose parameter counts differ by more than allowed."""
  if budget.parameters_within is None:
    return
  (first, one), *others = accounts.items()
  for name, other in others:
    ratio = other["parameters"] / one["parameters"]
    if abs(ratio - 1) > budget.parameters_within:
      raise ValueError(
        f"{name} has {other['parameters']:,} parameters and {first} has "
        f"{one['parameters']:,}: they differ by more than "
        f"Budget.parameters_within ({budget.parameters_within})"
      )


def calibrate(run: Run) -> float:
  """Times a few training steps on this device; returns model FLOP/s."""
  return _bench(run, _CALIBRATION_STEPS)["flops_per_s"]


def step_ratios(
  runs: Mapping[str, Run], baseline: str
) -> dict[str, dict[str, Any]]:
  """Times a training step of each cell relative to the baseline's.

  Args:
    runs: {cell: run}.
    baseline: one of the cells.

  Returns:
    {cell: {"ratio", "range"}} for all cells but the baseline: the mean and the
    range over 3 rounds. Steps of all cells, on synthetic tokens, are timed in
    turn on this device.
  """
  times = {name: [] for name in runs}
  for name in counted([*runs] * _ROUNDS, "comparing the cells' steps"):
    timed = _bench(runs[name], _STEPS_OF_A_ROUND)
    times[name].append(timed["step_ms_median"])
  ratios = {
    name: list(np.divide(times[name], times[baseline]))
    for name in runs
    if name != baseline
  }
  return {
    name: {"ratio": float(np.mean(of)), "range": [min(of), max(of)]}
    for name, of in ratios.items()
  }


def _bench(run, steps) -> dict[str, Any]:
  return bench.bench(
    run.model.fit_vocabulary(resolve(run.train.task).vocab_size),
    run.optimizer,
    batch_size=run.train.batch_size,
    lengths=run.train.lengths,
    microbatches=run.microbatches,
    steps=steps,
    layout=run.layout,
  )


def documents_sha256(run: Run) -> str:
  """Returns a digest of the first documents that a run reads, in order.

  Arms with equal digests read the same text, whatever their objectives make of
  it.
  """
  spec, digest = run.train, hashlib.sha256()
  for task in resolve(spec.task).parts:
    # The settings that determine them; without an order, the task's name does.
    known = (
      task.source, spec.document_order or task.name,
      spec.cache_dir and task.name, spec.cache_dir, spec.split, spec.shuffle,
      spec.seed,
    )  # fmt: skip
    if known not in _digests:
      _digests[known] = _first_documents_sha256(task, spec)
    digest.update(_digests[known])
  return digest.hexdigest()


# Cached: arms share digests, and each takes seconds.
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
  """Returns the bytes of a field: a text, numbers, or several texts."""
  if isinstance(value, bytes):
    return value
  value = np.asarray(value)
  if value.dtype == object:  # tobytes would give addresses
    return repr(value.tolist()).encode()
  return value.tobytes()


def _fields(task, spec):
  return task_examples.documents(task, spec).element_spec


def _token_counts(reader) -> dict[str, float]:
  """Returns the mean token counts of the first batches."""
  stream = itertools.islice(reader.batches(), _BATCHES)
  counts = [token_counts.count(batch) for batch in stream]
  return {
    name: float(np.mean([count[name] for count in counts]))
    for name in counts[0]
  }


def _source_tokens_per_example(reader, counts) -> float:
  """Returns the mean number of document tokens per example.

  Exact for any objective: counts documents in and examples out. Examples that
  are not made from documents (questions and answers) count as their own source.
  """
  provider, parts = reader.task.provider, reader.task.parts
  spec = dataclasses.replace(reader.spec, shuffle=False)
  if any("text" not in _fields(task, reader.spec) for task in parts):
    return counts["tokens"] / counts["examples"]
  lengths = {k: v for k, v in reader.lengths.items() if k != "decoder"}
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
