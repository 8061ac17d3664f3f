"""Where training stopped is recorded, and the step can be repeated."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.optim.optimizers import AdamW
from t5x_lite.training import stopped
from t5x_lite.training.divergence import Diverged, Step
from t5x_lite.training.loss_spike import LossSpike
from t5x_lite.training.replaying import replay
from t5x_lite.training.train import train
from tests.training import test_train

copy_task = test_train.copy_task


@dataclasses.dataclass(frozen=True)
class Leap:
  """A learning rate that is another one from the sixth step on."""

  value: float

  def __call__(self, step):
    return jnp.where(step < 5, 1e-2, self.value)


def diverge(model_dir, value):
  """Trains until the learning rate makes it stop; returns the run and error."""
  run = test_train.make_run(
    optimizer=AdamW(learning_rate=Leap(value)), total_steps=20,
    log_every=5, checkpoint_every=3, max_skipped_steps=2,
    loss_spike=LossSpike(window=4, deviations=3.0, steps=2),
  )  # fmt: skip
  with pytest.raises(ValueError) as caught:
    train(run, model_dir=str(model_dir))
  return run, str(caught.value)


def files(folder):
  return {
    path: path.read_bytes() for path in folder.rglob("*") if path.is_file()
  }


@pytest.fixture(scope="module")
def not_finite(tmp_path_factory):
  """A run whose sixth update makes all later losses NaN."""
  model_dir = tmp_path_factory.mktemp("not_finite")
  return model_dir, *diverge(model_dir, 1e15)


@pytest.mark.slow
def test_updates_that_are_not_finite_are_recorded(not_finite):
  model_dir, _, message = not_finite
  assert "from step 7 to step 8 the loss or its gradient was not" in message
  assert f"train --model_dir={model_dir} --replay=7 repeats it" in message
  assert "\n" not in message
  record = json.loads((model_dir / "stopped-7" / "stop.json").read_text())
  assert record["step"] == 7 and record["reason"] in message
  assert record["restart_from_step"] == 6 and record["loss"] is None
  assert record["first_not_finite"] in record["gradient_norms"]
  # Every row is an example of the task, with its tokens as text.
  examples = np.random.default_rng(0).integers(
    2, test_train.tiny.VOCAB, (64, 5)
  )
  for row in record["rows"]:
    text = row["text"]["decoder_target_tokens"]
    assert any(text.startswith(str(x.tolist())[:-1]) for x in examples)
  _, batch = stopped.read(str(model_dir), 7)
  assert stopped.row_ids(batch) == [row["id"] for row in record["rows"]]


def test_a_step_is_repeated_with_the_same_bits_and_nothing_is_written(
  not_finite, capsys
):
  model_dir, run, _ = not_finite
  before = files(model_dir)
  replay(run, model_dir=str(model_dir), step=7)
  printed = capsys.readouterr().out
  record, _ = stopped.read(str(model_dir), 7)
  assert "loss nan, the same bits as in training" in printed
  assert f"not finite: {record['first_not_finite']}\n" in printed
  assert all(name in printed for name in record["gradient_norms"])
  assert files(model_dir) == before


@pytest.mark.slow
def test_a_spike_is_recorded_and_repeated(tmp_path, capsys):
  run, message = diverge(tmp_path, 3.0)
  assert "from step 7 to step 8 the loss was a spike in 2 steps" in message
  # Step 9 is not saved: the loss is a spike by then.
  record, _ = stopped.read(str(tmp_path), 7)
  assert record["restart_from_step"] == 6
  # The parameters before are gone: only a replay tells.
  assert record["gradient_norms"] is None and record["loss"] > 4
  replay(run, model_dir=str(tmp_path), step=7)
  printed = capsys.readouterr().out
  assert f"loss {record['loss']:.6g}, the same bits as in training" in printed
  assert "not finite: None" in printed
  for row in record["rows"]:
    assert row["id"] in printed
  # Without a checkpoint it begins at the start; other bits are noticed.
  path = tmp_path / "stopped-7" / "stop.json"
  changed = record | {"restart_from_step": 0, "loss_bits": "00000000"}
  path.write_text(json.dumps(changed))
  replay(run, model_dir=str(tmp_path), step=7)
  printed = capsys.readouterr().out
  assert "after 6 steps from that of step 0" in printed
  assert f"bits {record['loss_bits']}, but 00000000 in training" in printed


def test_a_step_that_is_not_recorded_is_refused(not_finite):
  model_dir, run, _ = not_finite
  with pytest.raises(ValueError, match="no stopped-5; training has recorded 7"):
    replay(run, model_dir=str(model_dir), step=5)


def test_ids_are_those_of_rows_wherever_they_stand():
  tokens = np.arange(12, dtype=np.int32).reshape(4, 3)
  batch = {"a": tokens, "b": tokens + 1}
  ids = stopped.row_ids(batch)
  assert len(set(ids)) == 4
  turned = {name: batch[name][::-1] for name in ("b", "a")}
  assert stopped.row_ids(turned) == ids[::-1]
  batch["b"] = tokens + (tokens == 4)
  assert stopped.row_ids(batch)[0] != ids[0]


def test_the_reason_is_said_even_if_nothing_can_be_recorded(tmp_path):
  class Full:
    def wait(self):
      raise OSError(28, "No space left on device")

  step = Step(7, None, {})
  with (
    pytest.raises(ValueError, match=r"has diverged: NaN; .* No space left"),
    stopped.recording(
      Full(), model_dir=str(tmp_path), task=None, layout=None, examine=None
    ),
  ):
    raise Diverged("NaN", step)
