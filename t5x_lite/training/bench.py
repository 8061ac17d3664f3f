"""Measures a training step on synthetic token ids: no data, no TensorFlow."""

import contextlib
import resource
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from t5x_lite.accounting import fitting
from t5x_lite.devices import matmul_peak
from t5x_lite.devices.layout import Layout
from t5x_lite.files.slow import announced
from t5x_lite.model import Model
from t5x_lite.optim.optimizers import Optimizer
from t5x_lite.training import peer as peers
from t5x_lite.training import step


def bench(
  model: Model,
  optimizer: Optimizer,
  *,
  batch_size: int,
  lengths: Mapping[str, int],
  steps: int = 5,
  microbatches: int | str = 1,
  layout: Layout | None = None,
  against: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Times complete training steps: forward, backward and update.

  Args:
    model: a model with its vocabulary size set.
    optimizer: the optimizer; its update is part of the step.
    batch_size: rows of the global batch.
    lengths: {"inputs", "targets"} in tokens, as for a run.
    steps: the number of timed steps, after one warmup step.
    microbatches: as in a run.
    layout: the devices; None shards the batch over all.
    against: the same model in the words of Hugging Face (`peer.Peer`), whose
      steps alternate with ours; None compares nothing.

  Returns:
    "tokens_per_s" (encoder and decoder tokens), "step_ms_median", "step_ms"
    (every step), "flops_per_s" (model FLOPs, without recomputation),
    "pct_of_peak" (of the matmul peak, the better of two measurements before and
    after the steps), "peak_flops_per_s", "rss_mb" (peak resident memory of the
    process), "device_mb" (peak memory of the device, None if it has none of its
    own), "compile_s", "parameters", "dtype", "kernel", "device" and "loss"; and
    "against", of the peer: "tokens_per_s", "step_ms_median", "cpu_ms_median",
    "parameters", "attention", "versions", and "ratio", our tokens per second
    over its own.

  Raises:
    ValueError: the peer does not take such steps, or fails.
  """
  layout = layout or Layout()
  model, microbatches, described = fitting.fit(
    model, batch_size=batch_size, lengths=lengths, optimizer=optimizer,
    microbatches=microbatches, layout=layout,
  )  # fmt: skip
  if against is not None:
    peers.check(model, optimizer, microbatches, jax.default_backend())
  transform = optimizer.fit_steps(1000).build(model.logical_axes())
  layout = layout.fit(model.logical_axes(), model.abstract())
  with layout.activate():
    batch = layout.shard_batch(_random_batch(model, batch_size, lengths))
    init = jax.jit(lambda key: step.init_state(model, transform, key))
    train_step = jax.jit(
      step.train_step(
        model,
        transform,
        microbatches=microbatches,
        dropout_key=jax.random.key(1),
      ),
      donate_argnums=0,
    )
    state = init(jax.random.key(0))
    begun = time.perf_counter()
    with announced("compiling the training step"):
      compiled = train_step.lower(state, batch).compile()
    compile_seconds = time.perf_counter() - begun
    peaks = [matmul_peak.matmul_flops(model.transformer.dtype)]
    ours, theirs = [], []
    with contextlib.ExitStack() as stack:
      if against is not None:
        peer = stack.enter_context(
          peers.Peer(against, batch_size=batch_size, lengths=lengths)
        )
      stack.enter_context(
        announced("timing steps", detail=lambda: f"{len(ours)} of {1 + steps}")
      )
      for _ in range(1 + steps):
        begun, cpu = time.perf_counter(), time.process_time()
        state, metrics = compiled(state, batch)
        jax.block_until_ready(state)
        took = time.perf_counter() - begun, time.process_time() - cpu
        ours.append(took)
        if against is not None:
          answer = peer.step()
          theirs.append((answer["seconds"], answer["cpu_seconds"]))
    peaks.append(matmul_peak.matmul_flops(model.transformer.dtype))
  tokens = described["tokens_per_step"]
  median = statistics.median(s for s, _ in ours[1:])
  compared = {}
  if against is not None:
    compared["against"] = _speed(theirs[1:], tokens) | peer.about
    of_peer = statistics.median(s for s, _ in theirs[1:])
    compared["against"]["ratio"] = round(of_peer / median, 3)
  return {
    **_speed(ours[1:], tokens),
    "step_ms": [round(s * 1e3, 1) for s, _ in ours[1:]],
    "flops_per_s": described["flops_per_step"] / median,
    "pct_of_peak": round(
      100 * described["flops_per_step"] / median / max(peaks), 1
    ),
    "peak_flops_per_s": max(peaks),
    "rss_mb": round(_rss_bytes() / 1e6, 1),
    "device_mb": _device_mb(),
    "compile_s": round(compile_seconds, 1),
    "parameters": described["parameters"]["total"],
    "architecture": model.row_format.name,
    "batch_size": batch_size,
    "lengths": dict(lengths),
    "dtype": model.transformer.dtype,
    "kernel": ", ".join(described["kernels"]),
    "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "loss": float(metrics.terms["loss"].mean()),
    **compared,
  }


def _speed(times, tokens) -> dict[str, float]:
  """Returns the medians of steps' (seconds, seconds of all threads)."""
  wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
  return {
    "tokens_per_s": round(tokens / wall, 1),
    "step_ms_median": round(wall * 1e3, 1),
    "cpu_ms_median": round(cpu * 1e3, 1),
  }


def _random_batch(model: Model, rows: int, lengths: Mapping[str, int]):
  vocab_size = model.transformer.vocab_size
  batch = model.row_format.random_batch(rows, lengths, vocab_size)
  shapes = model.abstract_batch(rows, model.row_format.row_lengths(lengths))
  for name in shapes.keys() - batch.keys():
    batch[name] = np.zeros(shapes[name].shape, np.int32)
  return batch


def _rss_bytes() -> int:
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _device_mb() -> float | None:
  stats = jax.local_devices()[0].memory_stats() or {}
  used = stats.get("peak_bytes_in_use")
  return None if used is None else round(used / 1e6, 1)
