"""Records are strict JSON and go on as they were, whatever the loss is."""

import json
import math

import jax.numpy as jnp
import pytest
import tensorflow as tf

from t5x_lite.losses import Term
from t5x_lite.training import metrics_log
from t5x_lite.training.goodput import Clock
from t5x_lite.training.step import Metrics
from tests.files.test_append import largest_file

COUNTS = {"tokens": 6, "positions": 8, "loss_tokens": 3}


def step(loss):
  one = jnp.ones(())
  terms = {name: Term(one, one) for name in ("objective", "z_loss", "accuracy")}
  terms["loss"] = Term(jnp.asarray(loss), one)
  terms["skipped_steps"] = Term(jnp.zeros(()), one)
  terms["moe_loss"] = Term(jnp.array([1.0, 2.0]), jnp.array([2.0, 4.0]))
  digest = jnp.uint32(2**32 - 1)
  return Metrics(terms, {"grad_norm": jnp.asarray(loss)}, digest, COUNTS)


def clock():
  made = Clock()
  made.switch("steps")
  return made


def interval(*losses):
  made = metrics_log.Interval(clock())
  for loss in losses:
    made.add(step(loss))
  return made


def recorder(path, first_step=0, of=None):
  return metrics_log.Recorder(
    str(path), first_step=first_step, total_steps=9, flops_per_step=1.0,
    peak_flops=1.0, clock=of or clock(),
  )  # fmt: skip


def test_values_that_are_not_finite_are_null_and_named(tmp_path, caplog):
  with recorder(tmp_path) as record:
    record.train(1, interval(1.0), learning_rate=0.1)
    record.train(2, interval(1.0, math.nan), learning_rate=0.1)
    record.evaluation(2, {"task/loss": -math.inf, "task/tokens": 3.0})
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  first, second, third = (
    json.loads(line, parse_constant=pytest.fail) for line in lines
  )
  assert first["loss"] == 1.0
  assert second["loss"] is None and second["z_loss"] == 1.0
  assert third == {
    "step": 2, "kind": "eval", "task/loss": None, "task/tokens": 3.0,
  }  # fmt: skip
  assert [record.getMessage() for record in caplog.records] == [
    "metrics.jsonl, step 2, train: loss is nan, grad_norm is nan "
    "(written as null)",
    "metrics.jsonl, step 2, eval: task/loss is -inf (written as null)",
  ]
  # TensorBoard draws them as what they are.
  (path,) = tmp_path.glob("events*")
  events = {
    (value.tag, event.step): float(tf.make_ndarray(value.tensor))
    for event in tf.compat.v1.train.summary_iterator(str(path))
    for value in event.summary.value
  }
  assert events["train/loss", 1] == 1.0
  assert math.isnan(events["train/loss", 2])
  assert events["eval/task/loss", 2] == -math.inf


def test_a_full_disk_at_tensorboards_events_is_one_line(tmp_path):
  with pytest.raises(ValueError, match="cannot write TensorBoard events to "):
    with recorder(tmp_path) as record:
      record.evaluation(1, {f"task/{i}": 1.0 for i in range(30)})
      (path,) = tmp_path.glob("events*")
      with largest_file(path.stat().st_size + 100):
        record.evaluation(2, {f"task/{i}": 1.0 for i in range(30)})
  assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_interval_that_was_cut_is_recorded_as_the_whole_one(tmp_path, bad):
  whole = interval(2.0, bad, 3.0)
  cut = interval(2.0, bad)
  cut.save(tmp_path)
  text = (tmp_path / "interval.json").read_text()
  json.loads(text, parse_constant=pytest.fail)
  again = metrics_log.Interval(clock())
  again.restore([tmp_path])
  again.add(step(3.0))
  one, other = whole.take(), again.take()
  assert not math.isfinite(one["loss"]) and not math.isfinite(other["loss"])
  del one["loss"], other["loss"]
  for name in ("step_seconds", "tokens_per_second"):
    del one[name], other[name]
  assert one == other


def test_digests_of_batches_add_up_and_are_in_the_record_alone(tmp_path):
  with recorder(tmp_path) as record:
    record.train(3, interval(1.0, 2.0, 3.0), learning_rate=0.1)
  (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert json.loads(line)["batch_digest"] == f"{2**32 - 3:08x}"


def test_infinities_of_both_signs_have_no_sum():
  assert math.isnan(interval(math.inf, -math.inf).take()["loss"])


def test_a_resumed_run_keeps_records_with_null(tmp_path):
  with recorder(tmp_path) as record:
    record.train(2, interval(math.nan), learning_rate=0.1)
  before = (tmp_path / "metrics.jsonl").read_text()
  recorder(tmp_path, 2).__exit__()
  assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_resumed_run_drops_lines_that_were_cut_or_damaged(tmp_path, caplog):
  with recorder(tmp_path) as record:
    for number in (1, 2, 3):
      record.train(number, interval(float(number)), learning_rate=0.1)
  path = tmp_path / "metrics.jsonl"
  first, second, third = path.read_bytes().splitlines(keepends=True)
  for cut in (1, len(third) // 2, len(third) - 1):
    path.write_bytes(first + second[:9] + b"\xff\n" + third[:cut])
    assert list(metrics_log.records(path)) == [first.decode()]
  assert "line 2 of" in caplog.text and "line 3" not in caplog.text
  recorder(tmp_path, 3).__exit__()
  assert path.read_bytes() == first


def test_an_interval_of_an_earlier_version_is_refused(tmp_path):
  interval(1.0).save(tmp_path)
  path = tmp_path / "interval.json"
  saved = json.loads(path.read_text())
  del saved["batch_digest"]
  path.write_text(json.dumps(saved))
  with pytest.raises(ValueError, match="an earlier version of t5x_lite"):
    metrics_log.Interval(clock()).restore([tmp_path])
