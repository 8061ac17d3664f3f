"""Checks each schedule at its corners, against formulas written by hand."""

import math

import jax
import numpy as np
import pytest

from t5x_lite.optim import schedules
from t5x_lite.optim.schedules import WSD, Constant, Cosine, LinearWarmup, Rsqrt

COSINE = Cosine(peak=2.0, warmup_steps=10, total_steps=110, final_fraction=0.1)
WSD_LINEAR = WSD(
  peak=2.0, warmup_steps=10, decay_steps=20, total_steps=100, final_fraction=0.5
)
WSD_SQRT = WSD(peak=2.0, decay_steps=100, total_steps=200, shape="sqrt")


@pytest.mark.parametrize(
  "schedule, step, rate",
  [
    (Constant(value=3e-4), 0, 3e-4),
    (Constant(value=3e-4), 10**6, 3e-4),
    # T5's and PaLM's: 0.01 for 10,000 steps, then 1 / sqrt(step).
    (Rsqrt(), 0, 0.01),
    (Rsqrt(), 10_000, 0.01),
    (Rsqrt(), 40_000, 0.005),
    (Rsqrt(), 1_000_000, 0.001),
    (Rsqrt(scale=3.0, warmup_steps=100), 400, 3.0 / 20.0),
    (LinearWarmup(steps=10, schedule=Constant(value=2.0)), 0, 0.0),
    (LinearWarmup(steps=10, schedule=Constant(value=2.0)), 3, 0.6),
    (LinearWarmup(steps=10, schedule=Constant(value=2.0)), 10, 2.0),
    (LinearWarmup(steps=10, schedule=Constant(value=2.0)), 11, 2.0),
    (LinearWarmup(steps=4, schedule=Rsqrt(warmup_steps=4)), 2, 0.5 * 0.5),
    (LinearWarmup(steps=4, schedule=Rsqrt(warmup_steps=4)), 16, 0.25),
    (COSINE, 0, 0.0),
    (COSINE, 5, 1.0),
    (COSINE, 10, 2.0),
    (COSINE, 35, 2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)),
    (COSINE, 60, 2.0 * (0.1 + 0.9 / 2)),
    (COSINE, 110, 0.2),
    (COSINE, 10**6, 0.2),
    (Cosine(peak=2.0, total_steps=100), 0, 2.0),
    (Cosine(peak=2.0, total_steps=100), 100, 0.0),
    (WSD_LINEAR, 0, 0.0),
    (WSD_LINEAR, 5, 1.0),
    (WSD_LINEAR, 10, 2.0),
    (WSD_LINEAR, 80, 2.0),
    (WSD_LINEAR, 90, 1.5),
    (WSD_LINEAR, 100, 1.0),
    (WSD_LINEAR, 10**6, 1.0),
    (WSD_SQRT, 0, 2.0),
    (WSD_SQRT, 100, 2.0),
    (WSD_SQRT, 125, 2.0 * (1 - math.sqrt(0.25))),
    (WSD_SQRT, 200, 0.0),
    # No stable part: warmup and decay alone.
    (WSD(peak=1.0, warmup_steps=5, decay_steps=5, total_steps=10), 5, 1.0),
  ],
)
def test_schedule_at_step(schedule, step, rate):
  np.testing.assert_allclose(schedule(step), rate, rtol=1e-6, atol=1e-9)
  on_device = jax.jit(schedule)(np.int32(step))
  assert on_device.shape == () and on_device.dtype == np.float32
  np.testing.assert_allclose(on_device, rate, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("schedule", [COSINE, WSD_LINEAR, WSD_SQRT, Rsqrt()])
def test_schedule_has_no_jump(schedule):
  rates = np.array(jax.vmap(schedule)(np.arange(250)))
  assert np.abs(np.diff(rates)).max() < 0.21


def test_run_length_reaches_only_schedules_without_one():
  open_end = Cosine(peak=1.0, warmup_steps=10)
  fitted = schedules.fit_steps(open_end, 100)
  assert fitted == Cosine(peak=1.0, warmup_steps=10, total_steps=100)
  assert schedules.fit_steps(fitted, 50) == fitted
  wrapped = LinearWarmup(steps=5, schedule=WSD(peak=1.0, decay_steps=5))
  assert schedules.fit_steps(wrapped, 20).schedule.total_steps == 20
  assert schedules.fit_steps(Rsqrt(), 100) == Rsqrt()
  with pytest.raises(ValueError, match=r"Cosine\.total_steps \(None\)"):
    open_end(0)


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: Constant(value=-1.0), r"Constant\.value \(-1\.0\)"),
    (lambda: Constant(value=math.nan), r"Constant\.value \(nan\)"),
    (lambda: Constant(value="1e-3"), r"Constant\.value \('1e-3'\)"),
    (lambda: Rsqrt(warmup_steps=0), r"warmup_steps \(0\) must be at least 1"),
    (lambda: Rsqrt(warmup_steps=1e4), r"warmup_steps \(10000\.0\).* type int"),
    (lambda: LinearWarmup(steps=3, schedule=1e-3), r"schedule \(0\.001\)"),
    (
      lambda: Cosine(peak=1.0, warmup_steps=9, total_steps=9),
      r"warmup_steps \(9\) must be below total_steps \(9\)",
    ),
    (
      lambda: Cosine(peak=1.0, total_steps=9, final_fraction=1.5),
      r"final_fraction \(1\.5\)",
    ),
    (
      lambda: WSD(peak=1.0, warmup_steps=6, decay_steps=5, total_steps=10),
      r"warmup_steps \(6\) \+ decay_steps \(5\) must be at most total_steps"
      r" \(10\)",
    ),
    (
      lambda: WSD(peak=1.0, decay_steps=5, total_steps=9, shape="cubic"),
      r"WSD\.shape \('cubic'\)",
    ),
    (
      lambda: schedules.fit_steps(Cosine(peak=1.0, warmup_steps=100), 20),
      r"warmup_steps \(100\) must be below total_steps \(20\)",
    ),
  ],
)
def test_senseless_schedule_is_refused(make, message):
  with pytest.raises(ValueError, match=message) as error:
    make()
  assert "\n" not in str(error.value)
