"""Checkpoints restore exactly what was saved, or say why not."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t5x_lite.checkpoints import Retention
from t5x_lite.checkpoints.digests import Damaged
from t5x_lite.checkpoints.manager import Checkpoints, newest_sound
from tests.checkpoints.states import (
  Counter,
  abstract,
  assert_same,
  make_state,
  names,
  save_steps,
)


def test_restore_returns_what_was_saved(tmp_path, warnings):
  save_steps(tmp_path, 1, 2)
  iterator = Counter()
  checkpoints = Checkpoints(tmp_path, Retention())
  state, step = checkpoints.restore(abstract(make_state()), iterator)
  assert (step, iterator.position, checkpoints.latest_step) == (2, 20, 2)
  assert_same(state, make_state(2))
  assert names(tmp_path) == ["1", "2"]
  assert not warnings()


def test_restore_of_nothing_is_none(tmp_path):
  assert Checkpoints(tmp_path, Retention()).restore(make_state()) is None


def test_saved_state_is_that_before_the_next_donated_step(tmp_path):
  update = jax.jit(
    lambda state: jax.tree.map(lambda x: (x + 1).astype(x.dtype), state),
    donate_argnums=0,
  )
  state = jax.tree.map(jnp.copy, make_state())
  expected = {}
  with Checkpoints(tmp_path, Retention(last=None)) as checkpoints:
    for step in range(1, 6):
      state = update(state)
      expected[step] = jax.tree.map(lambda x: np.array(x, copy=True), state)
      checkpoints.save(step, state)
      state = update(state)
    for step in expected:
      restored, _ = checkpoints.restore(abstract(state), step=step)
      assert_same(restored, expected[step])


def test_tf_data_iterator_resumes_without_repeating_or_skipping(tmp_path):
  import tensorflow as tf  # 4 s: only here

  class Batches:
    def __init__(self):
      data = tf.data.Dataset.range(40).shuffle(7, seed=3).batch(2).prefetch(2)
      self.iterator = iter(data)
      self.checkpoint = tf.train.Checkpoint(iterator=self.iterator)

    def take(self, n):
      return [next(self.iterator).numpy().tolist() for _ in range(n)]

    def save(self, directory):
      self.checkpoint.write(os.fspath(directory / "tf"))

    def restore(self, directories):
      (directory,) = directories
      self.checkpoint.read(os.fspath(directory / "tf")).assert_consumed()

  batches = Batches()
  batches.take(3)
  with Checkpoints(tmp_path, Retention()) as checkpoints:
    checkpoints.save(3, make_state(), batches)
    rest = batches.take(17)
    again = Batches()
    checkpoints.restore(make_state(), again)
  assert again.take(17) == rest


def mesh_sharding(data, tensor, *spec):
  mesh = jax.make_mesh(
    (data, tensor),
    ("data", "tensor"),
    devices=jax.devices()[: data * tensor],
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
  )
  return NamedSharding(mesh, PartitionSpec(*spec))


SHARDINGS = {
  "one device": (1, 1),
  "replicated on 8": (8, 1),
  "data": (8, 1, "data"),
  "tensor": (2, 4, None, "tensor"),
  "both": (4, 2, "data", "tensor"),
}


@pytest.mark.parametrize("saved", SHARDINGS)
@pytest.mark.parametrize("restored", SHARDINGS)
def test_restore_onto_another_mesh(tmp_path, saved, restored):
  array = jnp.arange(64.0).reshape(8, 8)
  source, target = (mesh_sharding(*SHARDINGS[k]) for k in (saved, restored))
  with Checkpoints(tmp_path, Retention()) as checkpoints:
    checkpoints.save(1, {"params": {"w": jax.device_put(array, source)}})
    wanted = abstract({"params": {"w": array}}, target)
    state, _ = checkpoints.restore(wanted)
  assert state["params"]["w"].sharding == target
  np.testing.assert_array_equal(state["params"]["w"], array)


KEEPS = {
  "last": (Retention(last=2), [40, 50]),
  "all": (Retention(last=None), [10, 20, 30, 40, 50]),
  "every": (Retention(last=1, every=20), [20, 40, 50]),
  "min": (Retention(last=1, best=2, metric="loss"), [20, 30, 50]),
  "max": (Retention(last=1, best=1, metric="loss", mode="max"), [10, 50]),
}


@pytest.mark.parametrize("keep", KEEPS)
def test_keep(tmp_path, keep):
  spec, expected = KEEPS[keep]
  losses = {10: 9.0, 20: 1.0, 30: 2.0, 40: float("nan"), 50: 5.0}
  for step, loss in losses.items():  # Each time anew: a resumed run.
    with Checkpoints(tmp_path, spec) as checkpoints:
      checkpoints.save(step, make_state(step), metrics={"loss": loss})
  assert sorted(int(name) for name in names(tmp_path)) == expected
  for path in tmp_path.rglob("metrics.json"):
    json.loads(path.read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("name", ["last", "every", "best"])
@pytest.mark.parametrize("value", [0, -3])
def test_a_retention_that_keeps_nothing_is_refused(name, value):
  settings = {"metric": "loss"} if name == "best" else {}
  with pytest.raises(ValueError, match=rf"Retention.{name} \({value}\) must"):
    Retention(**{name: value}, **settings)


def test_best_of_equals_is_the_newest(tmp_path):
  keep = Retention(last=1, best=1, metric="loss")
  with Checkpoints(tmp_path, keep) as checkpoints:
    for step, loss in {1: 2.0, 2: 2.0, 3: 3.0}.items():
      checkpoints.save(step, make_state(), metrics={"loss": loss})
  assert names(tmp_path) == ["2", "3"]


def test_metric_that_is_none_of_the_metrics_is_named(tmp_path, warnings):
  keep = Retention(last=1, best=1, metric="validation/los")
  with Checkpoints(tmp_path, keep) as checkpoints:
    checkpoints.save(1, make_state(), metrics={"validation/loss": 2.0})
    checkpoints.save(2, make_state())
  assert names(tmp_path) == ["2"]
  (warning,) = warnings()
  assert "'validation/los'" in warning and "validation/loss;" in warning


def test_reader_follows_a_run_that_goes_on(tmp_path):
  save_steps(tmp_path, 1)
  opened = []

  def read(path):
    opened.append(path.name)
    if path.name == "1":  # The run saves 2 and removes 1 meanwhile.
      save_steps(tmp_path, 2, keep=Retention(last=1))
      raise Damaged("gone")
    return "parameters"

  folder = Checkpoints(tmp_path).directory
  assert newest_sound(folder, read) == ("parameters", 2)
  assert opened == ["1", "2"]


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_model_that_has_diverged_is_refused(tmp_path, bad):
  save_steps(tmp_path, 1)
  state = make_state(2)
  params = {
    **state.params,
    "embedding": state.params["embedding"].at[3].set(bad),
  }
  with Checkpoints(tmp_path, Retention(last=None)) as checkpoints:
    checkpoints.save(2, state.replace(params=params))
    with pytest.raises(ValueError, match="/2 holds .*/embedding is not finite"):
      checkpoints.restore_params(state.params)
    found = checkpoints.restore_params(state.params, step=1)
  assert_same(found, make_state(1).params)


def test_the_newest_step_known_to_be_sound_is_kept(tmp_path):
  with Checkpoints(tmp_path, Retention(last=1)) as checkpoints:
    for step in (1, 2, 3, 4):
      checkpoints.save(step, make_state(step))
      checkpoints.confirm(min(step, 2))
  assert names(tmp_path) == ["2", "4"]


def test_saving_a_step_again(tmp_path):
  with Checkpoints(tmp_path, Retention()) as checkpoints:
    checkpoints.save(1, make_state(1))
    checkpoints.save(1, make_state(2))  # The end of a run may be due twice.
    state, _ = checkpoints.restore(make_state())
    assert_same(state, make_state(1))
  with Checkpoints(tmp_path, Retention()) as other:
    with pytest.raises(ValueError, match="did not start from it"):
      other.save(1, make_state(1))


def test_left_over_temporary_directories_are_ignored_and_removed(tmp_path):
  save_steps(tmp_path, 1)
  left = tmp_path / "checkpoints/2.orbax-checkpoint-tmp"
  (left / "params").mkdir(parents=True)
  with Checkpoints(tmp_path, Retention()) as checkpoints:
    assert checkpoints.restore(make_state())[1] == 1
    checkpoints.save(2, make_state(2))
  assert names(tmp_path) == ["1", "2"]


def test_state_that_does_not_fit_names_the_differences(tmp_path, warnings):
  save_steps(tmp_path, 1)
  other = make_state()
  other.params["bias"] = jnp.zeros(3)
  del other.params["decoder"]
  other.params["embedding"] = jnp.zeros((24, 4), jnp.bfloat16)
  with pytest.raises(ValueError) as error:
    Checkpoints(tmp_path, Retention()).restore(other)
  message = str(error.value)
  assert "-params/bias" in message
  assert "+params/decoder/layer_0/kernel" in message
  assert "params/embedding is [96, 4], wanted [24, 4]" in message
  assert "\n" not in message
  assert names(tmp_path) == ["1"]
  with pytest.raises(ValueError, match=r"is \[96, 4\], wanted \[24, 4\]"):
    Checkpoints(tmp_path).restore_params(other.params)
  wide = make_state()
  wide.opt_state[1]["none"] = jnp.zeros((0, 2), jnp.int32)
  with pytest.raises(ValueError, match="none is float32, wanted int32"):
    Checkpoints(tmp_path, Retention()).restore(wide)


def test_iterator_errors(tmp_path):
  with Checkpoints(tmp_path, Retention()) as checkpoints:
    checkpoints.save(1, make_state())
    with pytest.raises(ValueError, match="holds no data iterator"):
      checkpoints.restore(make_state(), Counter())
    checkpoints.save(2, make_state(), Counter())

    class Other(Counter):
      def restore(self, directories):
        raise RuntimeError("another pipeline\nand a trace")

    with pytest.raises(ValueError, match="not fit .* data: another pipeline$"):
      checkpoints.restore(make_state(), Other())


def test_restore_params_casts_floats_and_needs_no_more(tmp_path):
  save_steps(tmp_path, 3)
  wanted = jax.tree.map(lambda x: x.astype(jnp.float16), make_state().params)
  params = Checkpoints(tmp_path).restore_params(wanted)
  assert_same(
    params, jax.tree.map(lambda x: x.astype(jnp.float16), make_state(3).params)
  )


def test_no_checkpoint_says_what_to_do(tmp_path):
  with pytest.raises(ValueError, match="no checkpoint in .*: run train first"):
    Checkpoints(tmp_path).restore_params(make_state().params)
  assert not list(tmp_path.iterdir())


def test_unwritable_directory_is_refused_at_once(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="file/run/.*: Not a directory"):
    Checkpoints(tmp_path / "file/run", Retention())


def remove(run):
  shutil.rmtree(run, ignore_errors=True)


def move_away(run):
  run.rename(run.with_name("elsewhere"))


@pytest.mark.parametrize("when", ["between saves", "during a save"])
@pytest.mark.parametrize("how", [remove, move_away])
def test_a_folder_that_is_removed_is_not_made_again(tmp_path, when, how):
  run = tmp_path / "run"
  with pytest.raises(ValueError, match="w(as|ere) removed while") as caught:
    with Checkpoints(run, Retention()) as checkpoints:
      checkpoints.save(1, make_state(1))
      if when == "between saves":
        checkpoints.wait()
      how(run)
      checkpoints.save(2, make_state(2))
  assert "\n" not in str(caught.value)
  # Removing it while others write in it leaves the folder there.
  assert not run.exists() or (how, when) == (remove, "during a save")
