"""Logs a run's metrics: to its sinks (sinks.py), and as progress."""

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tensorflow as tf
import tqdm
from absl import logging
from etils import epath

from t5x_lite.data import token_counts
from t5x_lite.files import disk, json_text
from t5x_lite.training.goodput import Clock
from t5x_lite.training.sinks import JsonLines, Sink, TensorBoard
from t5x_lite.training.step import Metrics
from t5x_lite.training.trackers import Tracker

FILE = "metrics.jsonl"
# Seconds without a line, after which the step is said where there is no bar.
_SILENCE = 10.0


class Interval:
  """Accumulates metrics since the last record.

  Loss terms stay on the device until they are needed, so that the device never
  waits for the host. The interval is saved with the data iterator, so that a
  record whose interval was interrupted has the same bits as one that was not.
  So is the run's clock, whose time of training is the interval's.
  """

  def __init__(self, clock: Clock):
    self._clock = clock
    self._begin(steps=[], counts={}, seconds=0.0, batch_digest=0)

  def _begin(self, *, steps, counts, seconds, batch_digest):
    # Of steps already fetched: name -> (sum, weight), and their batches' sum.
    self._steps: list[dict[str, Sequence]] = steps
    self._batch_digest: int = batch_digest
    self._pending: list[Metrics] = []
    self._counts: dict[str, int] = counts
    self._begun = self._clock.training_seconds - seconds

  def add(self, metrics: Metrics) -> None:
    """Adds one step."""
    self._pending.append(metrics)

  def take(self) -> dict[str, float | str]:
    """Returns the means and rates, and resets; waits for the last step.

    "batch_digest" is that of all batches since the last record, by which runs
    can be compared: it does not depend on mesh, microbatches or processes.
    """
    norms = jax.device_get(self._pending[-1].norms)
    steps = self._fetch()
    seconds = self._clock.training_seconds - self._begun
    counts, batch_digest = self._counts, self._batch_digest
    self._begin(steps=[], counts={}, seconds=0.0, batch_digest=0)
    made = [step for step in steps if not step["skipped_steps"][0]]
    return {
      **{name: _mean([s[name] for s in made or steps]) for name in steps[0]},
      "skipped_steps": len(steps) - len(made),
      **{name: float(value) for name, value in norms.items()},
      **token_counts.fractions(counts),
      # In hexadecimal, as it is no quantity; TensorBoard has no use for it.
      "batch_digest": f"{batch_digest:08x}",
      "tokens_per_second": counts["positions"] / seconds,
      "step_seconds": seconds / len(steps),
    }

  def save(self, directory: str | os.PathLike) -> None:
    """Saves the interval to a directory."""
    saved = {
      "steps": self._fetch(),
      "counts": self._counts,
      "seconds": self._clock.training_seconds - self._begun,
      "clock": self._clock.seconds(),
      "batch_digest": self._batch_digest,
    }
    with tf.io.gfile.GFile(os.path.join(directory, "interval.json"), "w") as f:
      f.write(json_text.dumps(saved))

  def restore(self, directories: Sequence[str | os.PathLike]) -> None:
    """Restores the interval that `save` wrote to each of the directories.

    Each process saves the metrics of the whole batch: the first one's are read.
    """
    directory = directories[0]
    saved = json_text.read(epath.Path(directory) / "interval.json")
    if "batch_digest" not in saved:
      raise ValueError(
        f"{directory} was written by an earlier version of t5x_lite, which "
        "cannot be resumed: start another run from it with Run.warm_start"
      )
    self._clock.restore(saved.pop("clock", {}))  # Older checkpoints lack it.
    self._begin(**saved)

  def _fetch(self) -> list[dict[str, Sequence]]:
    pending, self._pending = jax.device_get(self._pending), []
    self._steps += [
      {name: [x.tolist() for x in term] for name, term in one.terms.items()}
      for one in pending
    ]
    # Sums modulo 2**32 add up: the digests of two intervals give that of both.
    digests = sum(int(one.batch_digest) for one in pending)
    self._batch_digest = (self._batch_digest + digests) % 2**32
    for one in pending:
      for name, count in one.counts.items():
        self._counts[name] = self._counts.get(name, 0) + int(count)
    return self._steps


class Recorder:
  """Writes records from process 0, and shows progress.

  A value that is not finite is null in metrics.jsonl, with a warning, and
  unchanged in TensorBoard.

  Progress is a bar on a terminal and plain lines elsewhere. When a killed run
  resumes, its records after the checkpoint are removed: those steps are run
  again.
  """

  def __init__(
    self,
    model_dir: str,
    *,
    first_step: int,
    total_steps: int,
    flops_per_step: float,
    peak_flops: float,
    clock: Clock,
    trackers: Sequence[Tracker] = (),
  ):
    """Opens the files.

    Args:
      model_dir: the run's directory.
      first_step: the step that the run resumes from, or 0.
      total_steps: the total number of steps.
      flops_per_step: model FLOPs, to report the share of the peak; NaN: not
        reported.
      peak_flops: peak FLOP/s of all devices (devices/matmul_peak.py).
      clock: the run's clock; work that records show and that the checkpoint
        lacks is counted there as lost.
      trackers: where else to send the records.
    """
    self._main = jax.process_index() == 0
    self._total_steps = total_steps
    self._flops = flops_per_step, peak_flops
    self._first_step, self._step = first_step, first_step
    self._clock, self._begun = clock, clock.training_seconds
    self._paused, self._said = 0.0, time.monotonic()
    if not self._main:
      return
    path = epath.Path(model_dir) / FILE
    clock.lose(_drop_after(path, first_step))
    self._sinks: list[Sink] = [
      JsonLines(path),
      TensorBoard(model_dir),
      *(tracker.open(model_dir) for tracker in trackers),
    ]
    # disable=None hides the bar if standard error is not a terminal.
    self._bar = tqdm.tqdm(
      total=total_steps, initial=first_step, unit="step", disable=None,
      dynamic_ncols=True,
    )  # fmt: skip

  def __enter__(self) -> "Recorder":
    return self

  def __exit__(self, *error) -> None:
    if self._main:
      self._bar.close()
      for sink in self._sinks:
        sink.close()

  def say(self, line: str) -> None:
    """Prints a line for the user, above the bar if there is one."""
    self._said = time.monotonic()
    if self._main:
      tqdm.tqdm.write(line, file=sys.stderr)

  def advance(self, number: int) -> None:
    """Moves the bar to a step."""
    self._step = number
    if self._main:
      paused = self._clock.run_seconds - self._clock.training_seconds
      if paused > self._paused:  # The bar's rate is that of the steps.
        self._paused = paused
        self._bar.unpause()
      self._bar.update(number - self._bar.n)
      if self._bar.disable and time.monotonic() - self._said > _SILENCE:
        self.say(f"step {number}/{self._total_steps}")

  def train(
    self, number: int, interval: Interval, *, learning_rate: float
  ) -> None:
    """Records the steps since the last record, and resets the interval."""
    values = interval.take() | {"learning_rate": learning_rate}
    flops, peak = self._flops
    if math.isfinite(flops):
      values["flops_share"] = flops / values["step_seconds"] / peak
    values |= self._clock.fractions()
    self._write(number, "train", values)
    if not self._main:
      return
    self._bar.set_postfix_str(f"loss {values['loss']:.3f}", refresh=False)
    if self._bar.disable:
      self.say(
        f"step {number}/{self._total_steps}  loss {values['loss']:.3f}  "
        f"learning rate {learning_rate:.2e}  "
        f"{values['tokens_per_second']:,.0f} tokens/s  "
        f"goodput {values['goodput']:.0%}  "
        f"{self._time_left(number)} left"
      )

  def evaluation(self, number: int, metrics: Mapping[str, float]) -> None:
    """Records an evaluation, {"TASK/METRIC": value}."""
    self._write(number, "eval", metrics)
    losses = [
      f"{name.removesuffix('/loss')} {value:.3f}"
      for name, value in metrics.items()
      if name.endswith("/loss")
    ]
    self.say(f"step {number}/{self._total_steps}  held-out loss: "
             f"{', '.join(losses)}")  # fmt: skip

  def finish(self) -> None:
    """Records and says what the run's time went into, if it made a step."""
    if self._step > self._first_step:
      self._write(self._step, "goodput", self._clock.fractions())
      self.say(self._clock.describe())

  def _write(self, number: int, kind: str, values: Mapping[str, float | str]):
    if not self._main:
      return
    for sink in self._sinks:
      sink.write(number, kind, values)

  def _time_left(self, number: int) -> str:
    done = number - self._first_step
    rate = done / (self._clock.training_seconds - self._begun)
    return tqdm.tqdm.format_interval((self._total_steps - number) / rate)


def _mean(terms: Sequence[Sequence]) -> float:
  """Returns the sums over the weights of some steps' terms of one name."""
  # null, in what was saved, stands for what was not finite.
  sums, weights = np.apply_along_axis(_sum, 0, np.array(terms, np.float64))
  return float(np.sum(sums / np.maximum(weights, 1e-9)))


def _sum(values: Sequence[float]) -> float:
  """Returns the exact sum; infinities of both signs give NaN."""
  try:
    return math.fsum(values)
  except (OverflowError, ValueError):
    return math.nan


def records(path: epath.Path) -> dict[str, dict[str, Any]]:
  """Returns the records of a metrics.jsonl, each by its line.

  A last line that a kill has cut is left out; so is any other that is damaged,
  with a warning.
  """
  found = {}
  lines = path.read_bytes().splitlines(keepends=True)
  for number, line in enumerate(lines, 1):
    try:
      record = json.loads(line)
      record["step"] = int(record["step"])
    except (ValueError, TypeError, KeyError):
      if number < len(lines):
        logging.warning("line %d of %s is damaged: left out", number, path)
    else:
      if line.endswith(b"\n"):
        found[line.decode()] = record
  return found


def _drop_after(path: epath.Path, step: int) -> float:
  """Removes a file's records after a step, atomically.

  Returns:
    The run's time at the last record there was; 0 if there was none.
  """
  if not path.exists():
    return 0.0
  found = records(path)
  kept = [line for line, record in found.items() if record["step"] <= step]
  disk.write_text(path, "".join(kept))
  return max((r.get("run_seconds", 0.0) for r in found.values()), default=0.0)
