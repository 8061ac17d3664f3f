"""Steps are profiled when asked for, and the trace is summed up."""

import os
import re
import signal

import jax
import jax.numpy as jnp
import pytest

from launch import main
from t5x_lite.training import metrics_log, trace_summary
from t5x_lite.training.profiling import Profile
from t5x_lite.training.train import train
from tests.training import test_train

copy_task = test_train.copy_task


def test_time_of_loops_is_that_of_what_runs_inside():
  events = [
    (0, 100, "while"), (10, 30, "dot"), (30, 90, "fusion"), (40, 50, "copy"),
    (200, 210, "dot"),
  ]  # fmt: skip
  own = sorted(trace_summary._own_times(events))
  assert own == [
    ("copy", 10), ("dot", 10), ("dot", 20), ("fusion", 50), ("while", 20),
  ]  # fmt: skip
  assert trace_summary._covered(events) == 110


def test_matmuls_are_found_in_fusions_and_libraries_calls():
  text = jax.jit(lambda x, w: jnp.tanh(x @ w) + 1).lower(
    jnp.ones((8, 8)), jnp.ones((8, 8))
  ).compile().as_text()  # fmt: skip
  assert trace_summary.matmuls(text)
  assert not trace_summary.matmuls(
    jax.jit(jnp.tanh).lower(jnp.ones(8)).compile().as_text()
  )
  gpu_and_tpu = """
%fused (p0: bf16[8,128], p1: bf16[8,128]) -> bf16[8,128] {
  %p0 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %convolution.1 = bf16[8,128]{1,0:T(8,128)} convolution(%p0, %p1)
}

%other (p: f32[8]) -> f32[8] {
  ROOT %add.1 = f32[8]{0} add(%p, %p)
}

ENTRY %main (p0: bf16[8,128]) -> bf16[8,128] {
  %fusion.3 = (bf16[8]{0:T(8)(2,1)S(1)}, f32[]) fusion(%p0), calls=%fused
  %fusion.4 = f32[8]{0} fusion(%p0), kind=kLoop, calls=%other
  %gemm = f32[8]{0} custom-call(%p0), custom_call_target="__cublas$gemm"
  %sort = f32[8]{0} custom-call(%p0), custom_call_target="TopK"
}
"""
  assert trace_summary.matmuls(gpu_and_tpu) == {
    "convolution.1", "fusion.3", "gemm",
  }  # fmt: skip


@pytest.mark.slow
def test_the_steps_asked_for_are_traced_and_summed_up(tmp_path, capsys):
  run = test_train.make_run(total_steps=4, checkpoint_every=None)
  train(run, model_dir=str(tmp_path), profile=Profile(2, 2))
  said = capsys.readouterr().err
  assert f"profile of steps 2 to 3: {tmp_path}/profile/step_2, for" in said
  assert "s on 8 devices, idle " in said and "% of the operations' time" in said
  assert float(re.search(r"matmuls ([\d.]+)% of", said)[1]) > 0
  (folder,) = (tmp_path / "profile").glob("*/plugins/profile/*")
  kinds = {"".join(path.suffixes[-2:]) for path in folder.iterdir()}
  assert {".xplane.pb", ".json.gz"} <= kinds
  steps = [
    dict(event.stats)["step_num"]
    for plane in jax.profiler.ProfileData.from_file(
      str(next(folder.glob("*.xplane.pb")))
    ).planes
    for line in plane.lines
    for event in line.events
    if event.name == "train"
  ]
  assert steps == [2, 3]


def test_a_signal_profiles_the_next_steps_up_to_the_end(
  tmp_path, capsys, monkeypatch
):
  add = metrics_log.Interval.add

  def add_and_signal(self, *args):
    add(self, *args)
    os.kill(os.getpid(), signal.SIGUSR1)

  monkeypatch.setattr(metrics_log.Interval, "add", add_and_signal)
  run = test_train.make_run(total_steps=3, checkpoint_every=None)
  with Profile().listening() as profile:
    train(run, model_dir=str(tmp_path), profile=profile)
  assert "profile of steps 2 to 3: " in capsys.readouterr().err
  assert [path.name for path in (tmp_path / "profile").iterdir()] == ["step_2"]


def test_a_signal_before_the_first_step_waits_for_it():
  before = signal.getsignal(signal.SIGUSR1)
  with Profile(count=2).listening() as profile:
    os.kill(os.getpid(), signal.SIGUSR1)  # While the program compiles, say.
    assert profile.due(1) and not profile.due(2)
  assert signal.getsignal(signal.SIGUSR1) is before


@pytest.mark.parametrize("text", ["3", "0:2", "2:0", "a:b", "2:-1"])
def test_a_profile_without_sense_is_refused(text, tmp_path, capsys):
  flags = [f"--model_dir={tmp_path}/run", f"--profile={text}"]
  assert main.main(["train", *flags]) == 2
  said = capsys.readouterr().err
  assert f"--profile={text} must be STEP:COUNT" in said
  assert said.count("\n") == 1 and not (tmp_path / "run").exists()
