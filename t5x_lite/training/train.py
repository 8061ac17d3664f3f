"""Runs the training loop."""

import contextlib

import jax

from t5x_lite.checkpoints.manager import Checkpoints
from t5x_lite.data import text_record, vocabulary_record
from t5x_lite.devices import lost_process, matmul_peak
from t5x_lite.evaluation import evaluate, held_out
from t5x_lite.files.slow import announced
from t5x_lite.training import metrics_log, samples, stopped
from t5x_lite.training.corruption import CheckedStep
from t5x_lite.training.divergence import Guard, Step
from t5x_lite.training.examination import examiner
from t5x_lite.training.goodput import Clock
from t5x_lite.training.profiling import Profile, Profiler
from t5x_lite.training.run import Run
from t5x_lite.training.setup import Setup
from t5x_lite.training.step import TrainState
from t5x_lite.training.stop import Stop
from t5x_lite.training.watchdog import Watchdog


def train(
  run: Run,
  *,
  model_dir: str,
  clock: Clock | None = None,
  profile: Profile | None = None,
  allow_changed_data: bool = False,
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
    allow_changed_data: go on although text has changed since the last start.

  Returns:
    The final state.

  Raises:
    ValueError: the configuration is invalid: the task is unknown; lengths,
      batch or vocabulary do not suit model or layout; memory is too small; or
      text has changed since the last start.
      Raised before the run writes any file. Later: training diverges.
  """
  clock = clock or Clock()
  for tracker in run.trackers:
    tracker.check()
  setup = Setup(run, model_dir=model_dir)
  run, model = setup.run, setup.model
  layout, task = setup.layout, setup.task
  text = text_record.take([setup.reader, *setup.eval_readers])
  text_record.check(text, model_dir, allow=allow_changed_data)
  with layout.activate(), contextlib.ExitStack() as stack:
    checkpoints = stack.enter_context(Checkpoints(model_dir, run.keep))
    # Both programs compile in the background while this thread reads data.
    compiled_init = None
    if checkpoints.latest_step is None:
      with clock("compile"):
        compiled_init = setup.compile_init()
    index, count = layout.data_shard()
    batches = setup.reader.batches(process_index=index, process_count=count)
    with clock("compile"):
      train_step = setup.compile_step(batches)
    batches.check_resumable()
    interval = metrics_log.Interval(clock)
    host_state = _HostState(batches, interval)
    if compiled_init is None:
      state, steps_done = checkpoints.restore(setup.abstract_state, host_state)
    else:
      with clock("compile"):
        init = compiled_init.result()
      state, steps_done = setup.first_state(init), 0
    vocabulary_record.write(task, model_dir)
    text_record.write(text, model_dir)
    # Wait before measuring peak FLOP/s: compiling uses the same cores.
    with clock("compile"):
      train_step = train_step.result()
    recorder = stack.enter_context(
      metrics_log.Recorder(
        model_dir,
        first_step=steps_done,
        total_steps=run.total_steps,
        flops_per_step=setup.description["flops_per_step"],
        peak_flops=matmul_peak.matmul_flops(model.transformer.dtype),
        clock=clock,
        trackers=run.trackers,
      )
    )
    recorder.say(setup.describe(steps_done))
    if note := setup.reader.describe_sharing(count):
      recorder.say(note)
    stop = stack.enter_context(Stop())
    stack.push(lambda kind, error, trace: lost_process.end_if_lost(error))
    eval_batches = held_out.held_out(setup.eval_readers, layout=layout)
    # From the training data if there is no evaluation data.
    sample_reader = (*setup.eval_readers, setup.reader)[0]
    sampled = run.sample_every and samples.Samples(model, run, sample_reader)

    def due(every, number):
      last = number == run.total_steps
      return every is not None and (number % every == 0 or last)

    checked_step = CheckedStep(train_step, every=run.sdc_check_every)
    guard = Guard(run, say=recorder.say)
    stack.enter_context(
      stopped.recording(
        checkpoints, model_dir=model_dir, task=task, layout=layout,
        examine=examiner(run, model, layout),
      )
    )  # fmt: skip
    profiler = stack.enter_context(
      Profiler(
        profile or Profile(), model_dir, program=train_step, clock=clock,
        settle=guard.settle, say=recorder.say,
      )
    )  # fmt: skip
    stack.enter_context(announced(None))  # The recorder shows the steps.
    watchdog = Watchdog("no batch", seconds=run.batch_timeout_seconds)
    clock.switch("steps")
    for number in range(steps_done + 1, run.total_steps + 1):
      profiler.before(number)
      with clock("data_wait", hidden=guard.is_busy), watchdog:
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
        rate = setup.optimizer.learning_rate(number - 1)
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
          sampled.write(state.params, layout, path)
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
