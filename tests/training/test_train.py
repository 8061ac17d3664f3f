"""Training ends, is recorded, and goes on where it was cut, to the last bit."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite.accounting import traces
from t5x_lite.checkpoints import Retention, WarmStart
from t5x_lite.checkpoints.manager import Checkpoints
from t5x_lite.data import Data
from t5x_lite.devices.layout import Layout
from t5x_lite.optim.optimizers import AdamW
from t5x_lite.training import metrics_log
from t5x_lite.training.run import Run
from t5x_lite.training.train import train
from tests import tiny

TASK = "train_copy"
STEPS = 6


@pytest.fixture(scope="module", autouse=True)
def copy_task():
  """A task whose targets are its inputs, in 64 examples."""
  rows = np.random.default_rng(0).integers(2, tiny.VOCAB, (64, 5))
  feature = seqio.Feature(
    seqio.PassThroughVocabulary(tiny.VOCAB), add_eos=False
  )

  def examples(split, shuffle_files, seed=None):
    del split, shuffle_files, seed
    return tf.data.Dataset.from_tensor_slices(
      {"inputs": rows.astype(np.int32), "targets": rows.astype(np.int32)}
    )

  seqio.TaskRegistry.add(
    TASK,
    source=seqio.FunctionDataSource(examples, splits=["train", "validation"]),
    output_features={"inputs": feature, "targets": feature},
    preprocessors=[],
  )
  yield
  seqio.TaskRegistry.remove(TASK)


def make_run(**changes) -> Run:
  data = Data(task=TASK, lengths={"inputs": 6, "targets": 6}, batch_size=8)
  settings = dict(
    model=tiny.t5(num_layers=1),
    train=data,
    optimizer=AdamW(learning_rate=1e-2),
    total_steps=STEPS,
    layout=Layout(mesh={"data": 2, "tensor": 4}),
    log_every=2,
    eval_every=None,
    checkpoint_every=2,
  )
  return Run(**(settings | changes))


def records(model_dir, kind="train"):
  lines = (model_dir / "metrics.jsonl").read_text().splitlines()
  return [r for r in map(json.loads, lines) if r["kind"] == kind]


def logged(model_dir):
  """Returns what the records say of the steps: losses and digests of data."""
  return [(r["loss"], r["batch_digest"]) for r in records(model_dir)]


def same_bits(a, b) -> bool:
  return all(
    np.array_equal(np.asarray(x), np.asarray(y))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  model_dir = tmp_path_factory.mktemp("unbroken")
  return train(make_run(), model_dir=str(model_dir)), model_dir


def test_loss_falls_and_every_interval_is_recorded(unbroken):
  _, model_dir = unbroken
  found = records(model_dir)
  assert [r["step"] for r in found] == [2, 4, 6]
  assert found[-1]["loss"] < found[0]["loss"]
  assert len({r["batch_digest"] for r in found}) == 3
  for r in found:
    # Five tokens in rows of six, on both sides; the decoder's bear loss.
    assert r["padding_fraction"] == pytest.approx(1 / 6)
    assert r["loss_fraction"] == pytest.approx(1 / 2)
    assert r["learning_rate"] == pytest.approx(1e-2)
    assert r["grad_norm"] > 0 and r["tokens_per_second"] > 0
  assert list(model_dir.glob("events.out.tfevents*"))


def test_the_same_run_again_gives_the_same_bits(unbroken, tmp_path):
  state, model_dir = unbroken
  again = train(make_run(), model_dir=str(tmp_path))
  assert same_bits(state, again)
  assert logged(model_dir) == logged(tmp_path)


def test_sizes_that_cannot_be_read_cost_their_words_alone(
  tmp_path, monkeypatch, capsys
):
  def renamed(*_):
    raise KeyError("num_carry")

  monkeypatch.setattr(traces, "inner", renamed)
  train(make_run(total_steps=2), model_dir=str(tmp_path))
  said = capsys.readouterr().err
  assert "parameters, attention kernel einsum, mesh" in said
  assert "nan" not in said.lower()
  (record,) = records(tmp_path)
  assert "flops_share" not in record and "loss" in record


@pytest.mark.slow
def test_divergence_stops_the_run_and_costs_no_sound_checkpoint(
  tmp_path, capsys
):
  settings = dict(checkpoint_every=1, log_every=3, keep=Retention(last=1))
  train(make_run(total_steps=2, **settings), model_dir=str(tmp_path))
  # Step 3 updates the parameters to something whose loss is not finite.
  broken = make_run(
    optimizer=AdamW(learning_rate=1e15), total_steps=40, max_skipped_steps=4,
    **settings,
  )  # fmt: skip
  with pytest.raises(ValueError, match="from step 4 to step 7 .* in 4 steps"):
    train(broken, model_dir=str(tmp_path))
  names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
  assert names == {"2", "3"}
  assert "step 4: loss or gradient is not finite" in capsys.readouterr().err
  assert [r["skipped_steps"] for r in records(tmp_path)] == [0, 0, 3]


def test_parameters_that_overflow_stop_the_run_at_once(tmp_path):
  run = make_run(optimizer=AdamW(learning_rate=1e30), checkpoint_every=1)
  with pytest.raises(ValueError, match="at step 1 the norm .* is inf; lower"):
    train(run, model_dir=str(tmp_path))
  assert not list((tmp_path / "checkpoints").iterdir())


def test_a_signal_saves_leaves_and_resumes_to_the_same_bits(
  unbroken, tmp_path, monkeypatch, capsys
):
  state, model_dir = unbroken
  add = metrics_log.Interval.add

  def add_and_signal(self, *args):
    add(self, *args)
    os.kill(os.getpid(), signal.SIGTERM)

  with monkeypatch.context() as patch:
    patch.setattr(metrics_log.Interval, "add", add_and_signal)
    with pytest.raises(SystemExit) as left:
      train(make_run(), model_dir=str(tmp_path))
  assert left.value.code == os.EX_TEMPFAIL
  assert f"to {tmp_path}/checkpoints" in capsys.readouterr().err
  assert Checkpoints(tmp_path).latest_step == 1
  resumed = train(make_run(), model_dir=str(tmp_path))
  assert same_bits(state, resumed)
  # Left within an interval, whose record says the same all the same.
  assert logged(model_dir) == logged(tmp_path)


def test_records_of_steps_that_come_again_are_dropped(unbroken, tmp_path):
  run = make_run(total_steps=3, log_every=1)
  train(run, model_dir=str(tmp_path))
  path = tmp_path / "metrics.jsonl"
  with path.open("a") as file:
    file.write('{"step": 4, "kind": "train", "loss": 9}\n{"step": 5, "ki')
  train(make_run(total_steps=4, log_every=1), model_dir=str(tmp_path))
  assert [r["step"] for r in records(tmp_path)] == [1, 2, 3, 4]
  assert records(tmp_path)[-1]["loss"] < 9


def test_a_finished_run_stays_as_it_is(unbroken):
  state, model_dir = unbroken
  before = (model_dir / "metrics.jsonl").read_text()
  again = train(make_run(), model_dir=str(model_dir))
  assert same_bits(state, again)
  assert (model_dir / "metrics.jsonl").read_text() == before


def test_evaluations_choose_the_best_checkpoint(tmp_path):
  held_out = Data(
    task=TASK, lengths={"inputs": 6, "targets": 6}, batch_size=8,
    split="validation", shuffle=False, num_epochs=1,
  )  # fmt: skip
  metric = f"{TASK}/loss"
  run = make_run(
    eval=(held_out,),
    eval_every=2,
    keep=Retention(last=1, best=1, metric=metric),
  )
  train(run, model_dir=str(tmp_path))
  found = records(tmp_path, "eval")
  assert [r["step"] for r in found] == [2, 4, 6]
  # 64 examples of five tokens, each once.
  assert all(r[f"{TASK}/tokens"] == 320 for r in found)
  best = min(found, key=lambda r: r[metric])["step"]
  kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
  # Of the last two, the loss after the first is known to be finite.
  assert kept == {best, STEPS - 2, STEPS}


def test_warm_start_takes_the_other_runs_parameters(unbroken, tmp_path):
  state, model_dir = unbroken
  run = make_run(
    total_steps=1,
    optimizer=AdamW(learning_rate=1e-30),
    warm_start=WarmStart(path=str(model_dir)),
  )
  warm = train(run, model_dir=str(tmp_path))
  assert same_bits(warm.params, state.params)


def test_another_vocabulary_is_refused_before_anything_is_written(
  unbroken, tmp_path
):
  (tmp_path / "vocabulary.json").write_text(
    json.dumps({"task": "other", "size": 7, "digest": "0"})
  )
  with pytest.raises(ValueError, match=r"other \(7 ids\).*37 ids"):
    train(make_run(), model_dir=str(tmp_path))
  assert [p.name for p in tmp_path.iterdir()] == ["vocabulary.json"]


def test_data_that_could_not_be_resumed_is_refused_at_once(tmp_path):
  def read(x):
    x["inputs"] = tf.ensure_shape(
      tf.py_function(lambda ids: ids, [x["inputs"]], tf.int32), [None]
    )
    return x

  task = seqio.get_mixture_or_task(TASK)
  seqio.TaskRegistry.add(
    "train_python", task.source, output_features=task.output_features,
    preprocessors=[seqio.map_over_dataset(read)],
  )  # fmt: skip
  try:
    run = make_run()
    run = dataclasses.replace(
      run, train=dataclasses.replace(run.train, task="train_python")
    )
    with pytest.raises(ValueError, match="PyFunc cannot be saved; use only"):
      train(run, model_dir=str(tmp_path))
  finally:
    seqio.TaskRegistry.remove("train_python")
  (checkpoints,) = tmp_path.iterdir()
  assert not any(checkpoints.iterdir())


def test_a_batch_that_devices_do_not_divide_is_refused(tmp_path):
  run = make_run(layout=Layout(mesh={"data": 8}), microbatches=2)
  with pytest.raises(ValueError, match=r"batch_size \(8\).*16"):
    train(run, model_dir=str(tmp_path))
  assert not list(tmp_path.iterdir())


def test_packed_rows_are_refused_where_the_encoder_pools(tmp_path):
  model = tiny.t5(num_layers=1)
  encoder = model.transformer.encoder.clone(pool=2)
  model = dataclasses.replace(
    model, transformer=model.transformer.clone(encoder=encoder)
  )
  packed = Data(
    task=TASK, lengths={"inputs": 6, "targets": 6}, batch_size=8, pack=True
  )
  with pytest.raises(ValueError, match="pack=False"):
    train(make_run(model=model, train=packed), model_dir=str(tmp_path))
  assert not list(tmp_path.iterdir())
