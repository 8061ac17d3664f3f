"""Repeats a step at which training stopped, to find out why it did."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from t5x_lite.checkpoints.manager import Checkpoints
from t5x_lite.data.batch_iterator import BatchIterator
from t5x_lite.devices.layout import Layout
from t5x_lite.model import Batch
from t5x_lite.training import examination
from t5x_lite.training.examination import Findings
from t5x_lite.training.step import Metrics, TrainState


def replay_step(
  record: Mapping[str, Any],
  rows: Mapping[str, np.ndarray],
  *,
  checkpoints: Checkpoints,
  abstract_state: TrainState,
  first_state: Callable[[], TrainState],
  batches: BatchIterator,
  train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
  examine: Callable[..., Findings],
  layout: Layout,
) -> TrainState:
  """Repeats a step that was recorded when training stopped; prints a report.

  The state before it comes from the checkpoint that was the newest then, and
  from the updates between the two, on the same batches: nothing is written.

  Args:
    record, rows: the step's, as `stopped.read` returns them.
    checkpoints: the run's.
    abstract_state: of the state to restore.
    first_state: returns that of step 0.
    batches: the run's training data, from its start.
    train_step: the compiled step; it may donate the state.
    examine: as from `examination.examiner`.
    layout: of the run.

  Returns:
    The state after the step.

  Raises:
    ValueError: the checkpoint is not there any more, or damaged.
  """
  number, start = record["step"], record["restart_from_step"]
  if start:
    state, _ = checkpoints.restore(abstract_state, batches, start)
  else:
    state = first_state()
  for _ in range(start + 1, number):
    state, _ = train_step(state, layout.shard_batch(next(batches)))
  sharding = layout.batch_sharding()
  batch = {
    name: jax.make_array_from_callback(x.shape, sharding, x.__getitem__)
    for name, x in rows.items()
  }
  findings = examine(state.params, number - 1, batch)
  state, metrics = train_step(state, batch)
  if jax.process_index() == 0:
    print(_report(record, start, findings, metrics), flush=True)
  return state


def _report(record, start, findings, metrics) -> str:
  bits = examination.loss_bits(metrics)
  same = (
    "the same bits as in training"
    if bits == record["loss_bits"]
    else f"bits {bits}, but {record['loss_bits']} in training: the "
    "configuration, the program or a device is not the same"
  )
  width = max(map(len, findings.gradient_norms))
  lines = [
    f"step {record['step']}, after {record['step'] - 1 - start} steps from "
    f"that of step {start}: loss {float(metrics.terms['loss'].mean()):.6g}, "
    f"{same}",
    f"first gradient that is not finite: {findings.first_not_finite}",
    f"{'parameter':<{width}}  {'norm':>12}  {'gradient norm':>13}",
  ]
  for name, norm in findings.gradient_norms.items():
    own = findings.parameter_norms[name]
    lines.append(f"{name:<{width}}  {own:12.6g}  {norm:13.6g}")
  lines.append(f"{'row':>5}  {'id':<16}  {'loss':>12}")
  for number, row in enumerate(record["rows"]):
    loss = findings.row_losses[number]
    lines.append(f"{number:5}  {row['id']}  {loss:12.6g}")
  return "\n".join(lines)
