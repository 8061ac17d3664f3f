"""Runs the training loop."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import math

import jax
import numpy as np

from t5x_lite.accounting import costs
from t5x_lite.checkpoints import warm_start
from t5x_lite.checkpoints.manager import Checkpoints
from t5x_lite.data import vocabulary_record
from t5x_lite.data.reader import Reader
from t5x_lite.data.resolved_task import ResolvedTask
from t5x_lite.devices import agreement, lost_process, matmul_peak, memory
from t5x_lite.evaluation import evaluate, held_out
from t5x_lite.files.slow import announced
from t5x_lite.optim import optimizers
from t5x_lite.training import metrics_log, samples, step, stopped
from t5x_lite.training.corruption import CheckedStep
from t5x_lite.training.divergence import Guard, Step
from t5x_lite.training.examination import examiner
from t5x_lite.training.goodput import Clock
from t5x_lite.training.profiling import Profile, Profiler
from t5x_lite.training.replaying import replay_step
from t5x_lite.training.run import Run
from t5x_lite.training.step import TrainState
from t5x_lite.training.stop import Stop


def train(
  run: Run,
  *,
  model_dir: str,
  clock: Clock | None = None,
  profile: Profile | None = None,
  replay: int | None = None,
) -> TrainState:
  """Trains, or resumes training, until `run.total_steps`.

  On the first Ctrl-C or SIGTERM, training finishes the current step, saves a
  checkpoint and exits, with status 130 or 75 (`stop.py`); the same signal again
  ends the process at once. The same call resumes: on CPU, with the same bits
  as an uninterrupted run.

  Args:
    run: the run's configuration.
    model_dir: the directory for checkpoints/, samples/, metrics.jsonl and
      TensorBoard events.
    clock: the run's clock, if it has been running before this call.
    profile: the steps to profile.
    replay: repeat this step only, at which training has stopped (stopped.py),
      print what is found, and write nothing.

  Returns:
    The final state.

  Raises:
    ValueError: the configuration is invalid: the task is unknown; lengths,
      batch or vocabulary do not suit model or layout; or memory is too small.
      Raised before the run writes any file. Later: training diverges.
  """
  clock = clock or Clock()
  for tracker in run.trackers:
    tracker.check()
  recorded = None if replay is None else stopped.read(model_dir, replay)
  reader, *eval_readers = _readers(run)
  task = reader.task
  model, settings = _fit(run, task, model_dir)
  optimizer = settings.build(model.logical_axes())
  description = costs.describe(
    model,
    batch_size=run.train.batch_size,
    lengths=run.train.lengths,
    optimizer=settings,
    microbatches=run.microbatches,
    platform=jax.default_backend(),
  )
  memory.check_memory(description, layout=run.layout)

  abstract_state, axes = _abstract_state(model, optimizer)
  layout = run.layout.fit(axes.params, abstract_state.params)
  with layout.activate(), contextlib.ExitStack() as stack:
    abstract_state = _place(abstract_state, axes, layout)
    keep = None if recorded else run.keep
    checkpoints = stack.enter_context(Checkpoints(model_dir, keep))
    # Both programs compile in the background while this thread reads data.
    compiled_init = None
    if checkpoints.latest_step is None or recorded:
      with clock("compile"):
        compiled_init = _compile_init(run, model, optimizer, abstract_state)
    index, count = layout.data_shard()
    batches = reader.batches(process_index=index, process_count=count)
    with clock("compile"):
      train_step = _compile_step(
        run, model, optimizer, layout, abstract_state, batches
      )
    examine = examiner(run, model, layout)
    if recorded:
      return replay_step(
        *recorded,
        checkpoints=checkpoints,
        abstract_state=abstract_state,
        first_state=lambda: _first_state(run, task, compiled_init.result()),
        batches=batches,
        train_step=train_step.result(),
        examine=examine,
        layout=layout,
      )
    batches.check_resumable()
    interval = metrics_log.Interval(clock)
    host_state = _HostState(batches, interval)
    if compiled_init is None:
      state, steps_done = checkpoints.restore(abstract_state, host_state)
    else:
      with clock("compile"):
        init = compiled_init.result()
      state, steps_done = _first_state(run, task, init), 0
    vocabulary_record.write(task, model_dir)
    # Wait before measuring peak FLOP/s: compiling uses the same cores.
    with clock("compile"):
      train_step = train_step.result()
    recorder = stack.enter_context(
      metrics_log.Recorder(
        model_dir,
        first_step=steps_done,
        total_steps=run.total_steps,
        flops_per_step=description["flops_per_step"],
        peak_flops=matmul_peak.matmul_flops(model.transformer.dtype),
        clock=clock,
        trackers=run.trackers,
      )
    )
    recorder.say(_describe(run, layout, description, model, steps_done))
    if note := reader.describe_sharing(count):
      recorder.say(note)
    stop = stack.enter_context(Stop())
    stack.push(lambda kind, error, trace: lost_process.end_if_lost(error))
    eval_batches = held_out.held_out(eval_readers, layout=layout)
    # From the training data if there is no evaluation data.
    sample_reader = (*eval_readers, reader)[0]

    def due(every, number):
      last = number == run.total_steps
      return every is not None and (number % every == 0 or last)

    checked_step = CheckedStep(train_step, every=run.sdc_check_every)
    guard = Guard(run, say=recorder.say)
    stack.enter_context(
      stopped.recording(
        checkpoints, model_dir=model_dir, task=task, layout=layout,
        examine=examine,
      )
    )  # fmt: skip
    profiler = stack.enter_context(
      Profiler(
        profile or Profile(), model_dir, program=train_step, clock=clock,
        settle=guard.catch_up, say=recorder.say,
      )
    )  # fmt: skip
    stack.enter_context(announced(None))  # The recorder shows the steps.
    clock.switch("steps")
    for number in range(steps_done + 1, run.total_steps + 1):
      profiler.before(number)
      with clock("data_wait", hidden=guard.is_busy):
        host_batch = next(batches)
      with jax.profiler.StepTraceAnnotation("train", step_num=number):
        batch = layout.shard_batch(host_batch)
        state, metrics = checked_step(number, state, batch)
      interval.add(metrics)
      guard.watch(Step(number, metrics, host_batch), state.params)

      stopping = stop.requested(number)
      profiler.after(number, last=stopping or number == run.total_steps)
      if stopping:
        folder = checkpoints.directory
        recorder.say(f"stopping: saves step {number} to {folder}")
      if due(run.log_every, number):
        # The schedule counts from 0, the steps of the loop from 1.
        rate = settings.learning_rate(number - 1)
        recorder.train(number, interval, learning_rate=float(rate))
      evaluation = None
      if due(run.eval_every, number) and run.eval:
        guard.catch_up()
        with clock("evaluation"):
          evaluation = evaluate.evaluate(
            model, state.params, eval_batches, layout=layout, metric_fns=False
          )
        recorder.evaluation(number, evaluation)
      if due(run.sample_every, number):
        path = f"{model_dir}/samples/{number}.jsonl"
        guard.catch_up()
        with clock("samples"):
          samples.write(model, state.params, run, sample_reader, layout, path)
      if due(run.checkpoint_every, number) or stopping:
        guard.catch_up()
        if guard.is_sound or stopping or number == run.total_steps:
          checkpoints.confirm(guard.verified_step)
          with clock("checkpoint"):
            checkpoints.save(number, state, host_state, evaluation)
        else:
          recorder.say(f"step {number}: no checkpoint, as training diverges")
      recorder.advance(number)
      if stopping:
        break
    guard.catch_up()
    with clock("checkpoint"):
      checkpoints.wait()
    recorder.finish()
  stop.leave()
  return state


@announced("opening the data")
def _readers(run: Run) -> list[Reader]:
  """Checks the run's data; returns readers of training and evaluation data."""
  run.layout.check_batch(run.train.batch_size, run.microbatches)
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


def _fit(run: Run, task: ResolvedTask, model_dir: str):
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


def _abstract_state(model, optimizer) -> tuple[TrainState, TrainState]:
  """Returns the shapes and the logical axes of the state."""
  state = jax.eval_shape(
    lambda: step.init_state(model, optimizer, jax.random.key(0))
  )
  axes = model.logical_axes()
  opt_axes = optimizers.state_axes(state.opt_state, axes)
  return state, TrainState(step=(), params=axes, opt_state=opt_axes)


def _place(abstract_state, axes, layout) -> TrainState:
  """Returns an abstract state with shardings."""
  shardings = layout.tree_shardings(axes, abstract_state)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract_state,
    shardings,
  )


def _compile_init(run, model, optimizer, abstract_state):
  """Starts to compile the initialisation; returns a future."""
  init = jax.jit(
    functools.partial(step.init_state, model, optimizer),
    out_shardings=jax.tree.map(lambda x: x.sharding, abstract_state),
  )
  return _compile(init.lower(jax.random.key(run.seed)))


def _compile_step(run, model, optimizer, layout, abstract_state, batches):
  """Starts to compile the training step; returns a future."""
  # `batches` has this process's rows, the step those of all processes.
  rows = run.train.batch_size
  abstract_batch = {
    name: jax.ShapeDtypeStruct(
      (rows, *shape[1:]), np.int32, sharding=layout.batch_sharding()
    )
    for name, shape in batches.shapes.items()
  }
  shardings = jax.tree.map(lambda x: x.sharding, abstract_state)
  function = jax.jit(
    step.train_step(
      model,
      optimizer,
      microbatches=run.microbatches,
      dropout_key=step.dropout_key(run.seed),
    ),
    donate_argnums=0,
    out_shardings=(shardings, layout.replicated()),
  )
  lowered = function.lower(abstract_state, abstract_batch)
  if jax.process_count() > 1:
    agreement.check({"the compiled step": lowered.as_text()})
  return _compile(lowered)


def _compile(lowered) -> concurrent.futures.Future:
  executor = concurrent.futures.ThreadPoolExecutor(1)
  future = executor.submit(lowered.compile)
  executor.shutdown(wait=False)
  return future


def _first_state(run, task, init) -> TrainState:
  """Initialises the state, at random or from another run's checkpoint."""
  state = init(jax.random.key(run.seed))
  if run.warm_start is not None:
    params = warm_start.warm_start(
      run.warm_start,
      state.params,
      vocabularies=(
        vocabulary_record.size(run.warm_start.path),
        task.vocab_size,
      ),
    )
    state = dataclasses.replace(state, params=params)
  return state


def _describe(run, layout, description, model, first_step) -> str:
  """Returns the summary that is logged at the start."""
  shape = layout.device_mesh().shape.items()
  mesh = " x ".join(f"{axis} {size}" for axis, size in shape)
  stack = model.transformer.decoder or model.transformer.encoder
  start = f"resuming after step {first_step}" if first_step else "from step 0"
  sizes = [f"{description['parameters']['total']:,} parameters"]
  if math.isfinite(flops := description["flops_per_token"]):
    sizes.append(f"{flops / 1e6:,.1f} MFLOP per token")
  if math.isfinite(nbytes := description["bytes"]["total"]):
    sizes.append(f"{nbytes / 2**20:,.0f} MiB predicted")
  return (
    f"{model.row_format.name} on {run.train.task}, {start} of "
    f"{run.total_steps}: {', '.join(sizes)}, "
    f"attention kernel {stack.layers[0].attention.core.kernel}, mesh {mesh}, "
    f"{jax.default_backend()}"
  )


class _HostState:
  """Saves and restores the host's state: data iterator and metrics interval."""

  def __init__(self, *parts):
    self._parts = parts

  def save(self, directory) -> None:
    for part in self._parts:
      part.save(directory)

  def restore(self, directories) -> None:
    for part in self._parts:
      part.restore(directories)
