"""Repeats a step at which training stopped, to find out why it did."""

import jax

from t5x_lite.checkpoints.manager import Checkpoints
from t5x_lite.training import examination, stopped
from t5x_lite.training.examination import examiner
from t5x_lite.training.run import Run
from t5x_lite.training.setup import Setup
from t5x_lite.training.step import TrainState


def replay(run: Run, *, model_dir: str, step: int) -> TrainState:
  """Repeats a step that was recorded when training stopped; prints a report.

  The state before it comes from the checkpoint that was the newest then, and
  from the updates between the two, on the same batches: nothing is written.

  Args:
    run: the configuration of the run that stopped.
    model_dir: the run's directory.
    step: the step's number.

  Returns:
    The state after the step.

  Raises:
    ValueError: the step is not recorded, or the checkpoint is not there any
      more, or damaged.
  """
  record, rows = stopped.read(model_dir, step)
  start = record["restart_from_step"]
  setup = Setup(run, model_dir=model_dir)
  run, layout = setup.run, setup.layout
  index, count = layout.data_shard()
  with layout.activate(), Checkpoints(model_dir) as checkpoints:
    batches = setup.reader.batches(process_index=index, process_count=count)
    train_step = setup.compile_step(batches)
    if start:
      state, _ = checkpoints.restore(setup.abstract_state, batches, start)
    else:
      state = setup.first_state(setup.compile_init().result())
    train_step = train_step.result()
    for _ in range(start + 1, step):
      state, _ = train_step(state, layout.shard_batch(next(batches)))
    sharding = layout.batch_sharding()
    batch = {
      name: jax.make_array_from_callback(x.shape, sharding, x.__getitem__)
      for name, x in rows.items()
    }
    findings = examiner(run, setup.model, layout)(state.params, step - 1, batch)
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
