"""Checkpoints restore exactly what was saved, or say why not."""

import errno
import logging
import os
import pathlib
import resource
import socket
import subprocess
import sys
import textwrap
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec

from t5x_lite.checkpoint import Checkpoints, newest_sound
from t5x_lite.digests import Damaged
from t5x_lite.run import Keep

ROOT = pathlib.Path(__file__).parents[1]


@struct.dataclass
class State:
  step: jax.Array
  params: dict
  opt_state: tuple


class Counter:
  """A data iterator that knows only how far it is."""

  def __init__(self, position=0):
    self.position = position

  def save(self, directory):
    (directory / "position").write_text(str(self.position))

  def restore(self, directory):
    self.position = int((directory / "position").read_text())


def make_state(step=0):
  key = jax.random.fold_in(jax.random.key(0), step)
  params = {
    "decoder": {"layer_0": {"kernel": jax.random.normal(key, (64, 32))}},
    "embedding": jax.random.normal(key, (96, 4), jnp.bfloat16),
  }
  # An empty leaf: some optimizers hold a place with one.
  opt_state = (optax.adam(0.1).init(params), {"none": jnp.zeros((0, 2))})
  return State(jnp.asarray(step, jnp.int32), params, opt_state)


def abstract(state, sharding=None):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state
  )


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def save_steps(run, *steps, keep=None):
  with Checkpoints(run, keep or Keep(last=None)) as checkpoints:
    for step in steps:
      checkpoints.save(step, make_state(step), Counter(10 * step))


def names(run):
  return sorted(p.name for p in (run / "checkpoints").iterdir())


def largest_file(directory):
  files = [p for p in directory.rglob("*") if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def flip_bit_of_kernel(step):
  """Flips a bit that TensorStore does not notice."""
  kernel = make_state(int(step.name)).params["decoder"]["layer_0"]["kernel"]
  for path in (step / "params").rglob("*"):
    if path.is_file():
      start = path.read_bytes().find(np.asarray(kernel).tobytes())
      if start >= 0:
        flip_bit(path, start + 50)
        return
  raise AssertionError("the kernel is not stored as it is")


def flip_bit(path, byte=None):
  data = bytearray(path.read_bytes())
  data[len(data) // 2 if byte is None else byte] ^= 4
  path.write_bytes(data)


@pytest.fixture
def warnings(caplog):
  """Returns the lines logged so far as warnings."""
  caplog.set_level(logging.WARNING)
  return lambda: caplog.messages


def test_restore_returns_what_was_saved(tmp_path, warnings):
  save_steps(tmp_path, 1, 2)
  iterator = Counter()
  checkpoints = Checkpoints(tmp_path, Keep())
  state, step = checkpoints.restore(abstract(make_state()), iterator)
  assert (step, iterator.position, checkpoints.latest_step) == (2, 20, 2)
  assert_same(state, make_state(2))
  assert names(tmp_path) == ["1", "2"]
  assert not warnings()


def test_restore_of_nothing_is_none(tmp_path):
  assert Checkpoints(tmp_path, Keep()).restore(make_state()) is None


def test_saved_state_is_that_before_the_next_donated_step(tmp_path):
  update = jax.jit(
    lambda state: jax.tree.map(lambda x: (x + 1).astype(x.dtype), state),
    donate_argnums=0,
  )
  state = jax.tree.map(jnp.copy, make_state())
  expected = {}
  with Checkpoints(tmp_path, Keep(last=None)) as checkpoints:
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

    def restore(self, directory):
      self.checkpoint.read(os.fspath(directory / "tf")).assert_consumed()

  batches = Batches()
  batches.take(3)
  with Checkpoints(tmp_path, Keep()) as checkpoints:
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
  with Checkpoints(tmp_path, Keep()) as checkpoints:
    checkpoints.save(1, {"params": {"w": jax.device_put(array, source)}})
    wanted = abstract({"params": {"w": array}}, target)
    state, _ = checkpoints.restore(wanted)
  assert state["params"]["w"].sharding == target
  np.testing.assert_array_equal(state["params"]["w"], array)


def truncate(path):
  path.write_bytes(path.read_bytes()[:-7])


def empty(step):
  for path in sorted(step.rglob("*"), reverse=True):
    path.unlink() if path.is_file() else path.rmdir()


DAMAGE = {
  "flipped bit in parameters": flip_bit_of_kernel,
  "truncated parameters": lambda s: truncate(largest_file(s / "params/d")),
  "flipped bit in optimizer": lambda s: flip_bit(largest_file(s / "state/d")),
  "lost file": lambda s: largest_file(s / "params/d").unlink(),
  "iterator": lambda s: flip_bit(s / "hosts/process_0/iterator/position"),
  "lost iterator": lambda s: (s / "hosts/process_0/iterator/position").unlink(),
  "manifest": lambda s: flip_bit(s / "hosts/process_0/manifest.json"),
  "empty step": empty,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_newest_is_set_aside_for_the_one_before(
  tmp_path, warnings, damage
):
  save_steps(tmp_path, 1, 2)
  DAMAGE[damage](tmp_path / "checkpoints/2")
  iterator = Counter()
  with Checkpoints(tmp_path, Keep()) as checkpoints:
    state, step = checkpoints.restore(abstract(make_state()), iterator)
    assert (step, iterator.position) == (1, 10)
    assert_same(state, make_state(1))
    (warning,) = warnings()
    assert "2 is damaged" in warning and "\n" not in warning
    assert names(tmp_path) == ["1", "2.corrupt-1"]
    checkpoints.save(2, make_state(2), Counter(20))  # Training gets there.
  assert names(tmp_path) == ["1", "2", "2.corrupt-1"]
  state, step = Checkpoints(tmp_path, Keep()).restore(make_state(), iterator)
  assert (step, iterator.position) == (2, 20)


def test_no_flipped_bit_anywhere_is_restored(tmp_path, warnings):
  save_steps(tmp_path, 1)
  step = tmp_path / "checkpoints/1"
  expected = make_state(1)
  for path in [p for p in step.rglob("*") if p.is_file()]:
    sound = path.read_bytes()
    for byte in {0, len(sound) // 3, 2 * len(sound) // 3, len(sound) - 1}:
      flip_bit(path, byte)
      try:
        state, _ = Checkpoints(tmp_path).restore(expected, Counter())
        assert_same(state, expected)  # The bit says nothing of the state.
      except ValueError as error:
        assert "no sound checkpoint" in str(error), path
      path.write_bytes(sound)


def test_all_damaged_is_an_error_and_nothing_is_renamed(tmp_path):
  save_steps(tmp_path, 1, 2)
  for step in (1, 2):
    DAMAGE["flipped bit in parameters"](tmp_path / f"checkpoints/{step}")
  for _ in range(2):  # A second start must not begin anew in silence.
    with pytest.raises(ValueError, match="no sound checkpoint in .*tmp.*"):
      Checkpoints(tmp_path, Keep()).restore(make_state())
  assert names(tmp_path) == ["1", "2"]


def test_damaged_step_is_an_error_when_asked_for(tmp_path):
  save_steps(tmp_path, 1, 2)
  DAMAGE["flipped bit in parameters"](tmp_path / "checkpoints/1")
  with pytest.raises(
    ValueError, match="step 1: .*kernel does not match its digest"
  ):
    Checkpoints(tmp_path, Keep()).restore(make_state(), step=1)
  with pytest.raises(ValueError, match="no checkpoint of step 7 .*have 1, 2"):
    Checkpoints(tmp_path, Keep()).restore(make_state(), step=7)


def test_reader_passes_damage_by_and_changes_nothing(tmp_path, warnings):
  save_steps(tmp_path, 1, 2)
  DAMAGE["flipped bit in parameters"](tmp_path / "checkpoints/2")
  checkpoints = Checkpoints(tmp_path)
  params = checkpoints.restore_params(make_state().params)
  assert_same(params, make_state(1).params)
  assert (checkpoints.restored_step, checkpoints.latest_step) == (1, 2)
  assert names(tmp_path) == ["1", "2"]
  assert "passed by" in warnings()[0]


KEEPS = {
  "last": (Keep(last=2), [40, 50]),
  "all": (Keep(last=None), [10, 20, 30, 40, 50]),
  "every": (Keep(last=1, every=20), [20, 40, 50]),
  "min": (Keep(last=1, best=2, metric="loss"), [20, 30, 50]),
  "max": (Keep(last=1, best=1, metric="loss", mode="max"), [10, 50]),
}


@pytest.mark.parametrize("keep", KEEPS)
def test_keep(tmp_path, keep):
  spec, expected = KEEPS[keep]
  losses = {10: 9.0, 20: 1.0, 30: 2.0, 40: float("nan"), 50: 5.0}
  for step, loss in losses.items():  # Each time anew: a resumed run.
    with Checkpoints(tmp_path, spec) as checkpoints:
      checkpoints.save(step, make_state(step), metrics={"loss": loss})
  assert sorted(int(name) for name in names(tmp_path)) == expected


def test_best_of_equals_is_the_newest(tmp_path):
  keep = Keep(last=1, best=1, metric="loss")
  with Checkpoints(tmp_path, keep) as checkpoints:
    for step, loss in {1: 2.0, 2: 2.0, 3: 3.0}.items():
      checkpoints.save(step, make_state(), metrics={"loss": loss})
  assert names(tmp_path) == ["2", "3"]


def test_metric_that_is_none_of_the_metrics_is_named(tmp_path, warnings):
  keep = Keep(last=1, best=1, metric="validation/los")
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
      save_steps(tmp_path, 2, keep=Keep(last=1))
      raise Damaged("gone")
    return "parameters"

  folder = Checkpoints(tmp_path).directory
  assert newest_sound(folder, read) == ("parameters", 2)
  assert opened == ["1", "2"]


def test_saving_a_step_again(tmp_path):
  with Checkpoints(tmp_path, Keep()) as checkpoints:
    checkpoints.save(1, make_state(1))
    checkpoints.save(1, make_state(2))  # The end of a run may be due twice.
    state, _ = checkpoints.restore(make_state())
    assert_same(state, make_state(1))
  with Checkpoints(tmp_path, Keep()) as other:
    with pytest.raises(ValueError, match="did not start from it"):
      other.save(1, make_state(1))


def test_left_over_temporary_directories_are_ignored_and_removed(tmp_path):
  save_steps(tmp_path, 1)
  left = tmp_path / "checkpoints/2.orbax-checkpoint-tmp"
  (left / "params").mkdir(parents=True)
  with Checkpoints(tmp_path, Keep()) as checkpoints:
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
    Checkpoints(tmp_path, Keep()).restore(other)
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
    Checkpoints(tmp_path, Keep()).restore(wide)


def test_iterator_errors(tmp_path):
  with Checkpoints(tmp_path, Keep()) as checkpoints:
    checkpoints.save(1, make_state())
    with pytest.raises(ValueError, match="holds no data iterator"):
      checkpoints.restore(make_state(), Counter())
    checkpoints.save(2, make_state(), Counter())

    class Other(Counter):
      def restore(self, directory):
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
    Checkpoints(tmp_path / "file/run", Keep())


def test_full_disk_is_one_line_and_earlier_checkpoints_stay(
  tmp_path, monkeypatch
):
  save_steps(tmp_path, 1)
  usage = types.SimpleNamespace(free=0)
  monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
  with Checkpoints(tmp_path, Keep(last=1)) as checkpoints:
    with pytest.raises(ValueError, match="step 2 .*No space left") as error:
      checkpoints.save(2, make_state())
    assert "\n" not in str(error.value)
    assert names(tmp_path) == ["1"]
    usage.free = 1 << 40
    checkpoints.save(3, make_state())
  assert names(tmp_path) == ["3"]


class FullDisk(Counter):
  def save(self, directory):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def test_full_disk_while_the_iterator_saves_itself(tmp_path):
  save_steps(tmp_path, 1)
  with Checkpoints(tmp_path, Keep(last=1)) as checkpoints:
    with pytest.raises(ValueError, match="step 2 .*: No space left on device;"):
      checkpoints.save(2, make_state(), FullDisk())
  assert names(tmp_path) == ["1"]


@pytest.mark.parametrize("call", ["wait", "save"])
def test_failure_in_the_background_is_raised_by_the_next_call(
  tmp_path, monkeypatch, call
):
  save_steps(tmp_path, 1)

  def full(path, body):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

  checkpoints = Checkpoints(tmp_path, Keep(last=1))
  with monkeypatch.context() as patch:
    patch.setattr("t5x_lite.digests.write_manifest", full)
    checkpoints.save(2, make_state())
    with pytest.raises(ValueError, match="step 2 .*: No space left on device;"):
      if call == "wait":
        checkpoints.wait()
      else:
        checkpoints.save(3, make_state())
  assert names(tmp_path) == ["1"]
  checkpoints.save(4, make_state())  # There is room again.
  checkpoints.close()
  assert names(tmp_path) == ["4"]


def test_full_disk_while_arrays_are_written(tmp_path):
  save_steps(tmp_path, 1)
  large = {"params": {"w": jax.random.normal(jax.random.key(0), (200, 200))}}
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  with Checkpoints(tmp_path, Keep(last=1)) as checkpoints:
    try:
      resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
      with pytest.raises(ValueError, match="step 2 .*: File too large;"):
        checkpoints.save(2, large)
        checkpoints.wait()
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert names(tmp_path) == ["1"]


def run_python(code, *arguments, **options):
  return subprocess.Popen(
    [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    **options,
  )


# Imports once, then saves in a child that is killed at a random moment, and
# starts again from what it left.
KILLED = """
    import os, random, signal, sys, time
    import jax
    import jax.numpy as jnp
    from t5x_lite.checkpoint import Checkpoints
    from t5x_lite.run import Keep

    class Counter:
      position = 0
      def save(self, directory):
        (directory / "position").write_text(str(self.position))
      def restore(self, directory):
        self.position = int((directory / "position").read_text())

    def train(run, saved):
      state = {"params": {f"w{i}": jnp.zeros((64, 64)) for i in range(4)}}
      iterator = Counter()
      checkpoints = Checkpoints(run, Keep(last=2))
      start = 0
      if restored := checkpoints.restore(state, iterator):
        state, start = restored
      assert iterator.position == start
      assert all((w == start).all() for w in state["params"].values()), state
      print("start", start, flush=True)
      for step in range(start + 1, 10_000):
        iterator.position = step
        state = jax.tree.map(lambda x: jnp.full_like(x, step), state)
        checkpoints.save(step, state, iterator)
        os.write(saved, b".")

    random.seed(0)
    for _ in range(4):
      # A pipe of its own: what a killed child left unread starts no clock.
      reader, writer = os.pipe()
      child = os.fork()
      if not child:
        train(sys.argv[1], writer)
      for _ in range(3):
        os.read(reader, 1)
      time.sleep(random.uniform(0, 0.2))
      os.kill(child, signal.SIGKILL)
      _, status = os.waitpid(child, 0)
      assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
"""


def test_kill_at_any_moment_leaves_a_sound_newest_checkpoint(tmp_path):
  killed = run_python(KILLED, tmp_path)
  output, _ = killed.communicate(timeout=120)
  assert killed.returncode == 0, output
  assert "damaged" not in output
  starts = [int(line.split()[1]) for line in output.splitlines()]
  assert len(starts) == 4 and starts == sorted(starts), output
  assert starts[-1] >= 3, output
  assert not [name for name in names(tmp_path) if "corrupt" in name]


PROCESSES = """
    import os, pathlib, sys
    run, process, port = sys.argv[1:]
    run, process = pathlib.Path(run), int(process)
    import jax
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"localhost:{port}", 2, process)
    import jax.numpy as jnp
    import numpy as np
    from jax.experimental import multihost_utils
    from jax.sharding import AxisType, NamedSharding, PartitionSpec
    from t5x_lite.checkpoint import Checkpoints
    from t5x_lite.run import Keep

    class Counter:
      position = 0
      def save(self, directory):
        (directory / "position").write_text(str(self.position))
      def restore(self, directory):
        self.position = int((directory / "position").read_text())

    def put(values, *spec, names=("data", "tensor"), shape=(2, 2)):
      mesh = jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * 2)
      sharding = NamedSharding(mesh, PartitionSpec(*spec))
      return jax.make_array_from_callback(
        values.shape, sharding, lambda index: values[index]
      )

    def state(step):
      w = np.arange(32, dtype=np.float32).reshape(8, 4) + step
      return {"params": {"w": put(w, "data", "tensor"), "b": put(w[0])}}

    def check(restored, step):
      iterator = Counter()
      for spec in (("data", "tensor"), ("tensor", "data"), (None, "data"), ()):
        w = put(np.zeros((8, 4), np.float32), *spec)
        wanted = {"params": {"w": w, "b": put(np.zeros(4, np.float32))}}
        got, at = restored.restore(wanted, iterator)
        assert at == step, at
        assert iterator.position == 10 * step + process
        w = got["params"]["w"]
        whole = multihost_utils.process_allgather(w, tiled=True)
        np.testing.assert_array_equal(
          whole, np.arange(32, dtype=np.float32).reshape(8, 4) + step
        )

    with Checkpoints(run, Keep()) as checkpoints:
      for step in (1, 2, 3):
        iterator = Counter()
        iterator.position = 10 * step + process
        checkpoints.save(step, state(step), iterator)
      checkpoints.wait()
      check(checkpoints, 3)
      # Damage that only the second process can see.
      if process == 1:
        own = run / "checkpoints/3/hosts/process_1"
        (own / "iterator/position").write_text("9")
      multihost_utils.sync_global_devices("damaged")
      check(checkpoints, 2)
    print("done", flush=True)
"""


def test_two_processes_share_checkpoints_and_agree_on_damage(tmp_path):
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    port = listener.getsockname()[1]
  environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
  processes = [
    run_python(PROCESSES, tmp_path, i, port, env=environment) for i in (0, 1)
  ]
  outputs = [process.communicate(timeout=180)[0] for process in processes]
  for process, output in zip(processes, outputs, strict=True):
    assert process.returncode == 0, output
    assert "done" in output
  assert names(tmp_path) == ["1", "2", "3.corrupt-1"]

  # One process reads what two have written, though not their iterators.
  whole = {"w": jnp.zeros((8, 4)), "b": jnp.zeros(4)}
  params = Checkpoints(tmp_path).restore_params(whole)
  np.testing.assert_array_equal(params["w"], np.arange(32.0).reshape(8, 4) + 2)
  with pytest.raises(ValueError, match="of 2 processes, this run has 1"):
    Checkpoints(tmp_path).restore({"params": whole}, Counter())
