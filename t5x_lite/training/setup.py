"""Makes a run ready: data, model, optimizer, layout, and programs."""

import concurrent.futures
import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import numpy as np

from t5x_lite.accounting import fitting
from t5x_lite.checkpoints import warm_start
from t5x_lite.data import vocabulary_record
from t5x_lite.data.batch_iterator import BatchIterator
from t5x_lite.data.reader import Reader
from t5x_lite.data.resolved_task import ResolvedTask
from t5x_lite.devices import agreement
from t5x_lite.files.slow import announced
from t5x_lite.model import Model
from t5x_lite.optim import optimizers
from t5x_lite.training import abstract_state, step
from t5x_lite.training.run import Run
from t5x_lite.training.step import TrainState


class Setup:
  """Holds a run that has been checked and laid out on the devices.

  Attributes:
    run: the run, its number of microbatches chosen.
    reader: of the training data.
    eval_readers: of the evaluation data.
    model, optimizer: the run's, with sizes filled in.
    description: of the model's costs (accounting/costs.py).
    layout: of this model's parameters on the devices.
    abstract_state: the shapes and shardings of the state.
  """

  def __init__(self, run: Run, *, model_dir: str):
    """Checks a run; writes nothing and computes nothing yet.

    Raises:
      ValueError: the configuration is invalid.
    """
    self.reader, *self.eval_readers = _readers(run)
    model, self.optimizer = _fit(run, self.task, model_dir)
    fitted = fitting.fit(
      model,
      batch_size=run.train.batch_size,
      lengths=run.train.lengths,
      optimizer=self.optimizer,
      microbatches=run.microbatches,
      layout=run.layout,
    )
    self.model, self.description = fitted.model, fitted.account
    self.run = dataclasses.replace(run, microbatches=fitted.microbatches)
    self._transformation = self.optimizer.build(self.model.logical_axes())
    state, axes = abstract_state.shapes(self.model, self._transformation)
    self.layout = run.layout.fit(axes.params, state.params)
    self.abstract_state = abstract_state.place(state, axes, self.layout)

  @property
  def task(self) -> ResolvedTask:
    """Returns the training task."""
    return self.reader.task

  def compile_init(self) -> concurrent.futures.Future:
    """Starts to compile the initialisation; returns a future."""
    init = jax.jit(
      functools.partial(step.init_state, self.model, self._transformation),
      out_shardings=self._shardings(),
    )
    return _compile(init.lower(jax.random.key(self.run.seed)))

  def first_state(self, init: Callable[..., TrainState]) -> TrainState:
    """Initialises the state, at random or from another run's checkpoint."""
    run, state = self.run, init(jax.random.key(self.run.seed))
    if run.warm_start is None:
      return state
    params = warm_start.warm_start(
      run.warm_start,
      state.params,
      vocabularies=(
        vocabulary_record.size(run.warm_start.path),
        self.task.vocab_size,
      ),
    )
    return dataclasses.replace(state, params=params)

  def compile_step(self, batches: BatchIterator) -> concurrent.futures.Future:
    """Starts to compile the training step; returns a future.

    Raises:
      ValueError: the processes of this run would not compile the same.
    """
    # `batches` has this process's rows, the step those of all processes.
    rows, layout = self.run.train.batch_size, self.layout
    abstract_batch = {
      name: jax.ShapeDtypeStruct(
        (rows, *shape[1:]), np.int32, sharding=layout.batch_sharding()
      )
      for name, shape in batches.shapes.items()
    }
    function = jax.jit(
      step.train_step(
        self.model,
        self._transformation,
        microbatches=self.run.microbatches,
        dropout_key=step.dropout_key(self.run.seed),
      ),
      donate_argnums=0,
      out_shardings=(self._shardings(), layout.replicated()),
    )
    lowered = function.lower(self.abstract_state, abstract_batch)
    if jax.process_count() > 1:
      agreement.check(
        {
          "the compiled step": lowered.as_text(),
          "the vocabulary": self.task.vocabulary_digest,
        }
      )
    return _compile(lowered)

  def describe(self, first_step: int) -> str:
    """Returns the summary that is logged at the start."""
    shape = self.layout.device_mesh().shape.items()
    mesh = " x ".join(f"{axis} {size}" for axis, size in shape)
    start = f"resuming after step {first_step}" if first_step else "from step 0"
    sizes = [f"{self.description['parameters']['total']:,} parameters"]
    if math.isfinite(flops := self.description["flops_per_token"]):
      sizes.append(f"{flops / 1e6:,.1f} MFLOP per token")
    if math.isfinite(nbytes := self.description["bytes"]["total"]):
      sizes.append(f"{nbytes / 2**20:,.0f} MiB predicted")
    sizes += fitting.chosen(self.model, self.run.microbatches)
    return (
      f"{self.model.row_format.name} on {self.run.train.task}, {start} of "
      f"{self.run.total_steps}: {', '.join(sizes)}, attention kernel "
      f"{', '.join(self.description['kernels'])}, mesh {mesh}, "
      f"{jax.default_backend()}"
    )

  def _shardings(self) -> TrainState:
    return jax.tree.map(lambda x: x.sharding, self.abstract_state)


@announced("opening the data")
def _readers(run: Run) -> list[Reader]:
  """Checks the run's data; returns readers of training and evaluation data."""
  pieces = 1 if run.microbatches == fitting.AUTO else run.microbatches
  run.layout.check_batch(run.train.batch_size, pieces)
  _, num_shares = run.layout.data_shard()
  readers = []
  for spec in (run.train, *run.eval):
    if spec.pack and not run.model.reads_packed_rows:
      raise ValueError(
        "Stack.pool would average tokens of different documents in packed "
        f"rows: {spec.task} needs Data.pack=False"
      )
    reader = Reader(spec, run.model.row_format)
    reader.check_process_count(num_shares)
    readers.append(reader)
  readers[0].check_streams(num_shares)
  return readers


def _fit(
  run: Run, task: ResolvedTask, model_dir: str
) -> tuple[Model, optimizers.Optimizer]:
  """Checks the vocabulary; returns model and optimizer with sizes filled in."""
  vocabulary_record.check(task, model_dir)
  source = run.warm_start
  if (
    source is not None
    and source.strict
    and source.num_trailing_sentinels is None
  ):
    vocabulary_record.check(task, source.path)
  model = run.model.fit_vocabulary(task.vocab_size)
  return model, run.optimizer.fit_steps(run.total_steps)


def _compile(lowered) -> concurrent.futures.Future:
  executor = concurrent.futures.ThreadPoolExecutor(1)
  future = executor.submit(lowered.compile)
  executor.shutdown(wait=False)
  return future
