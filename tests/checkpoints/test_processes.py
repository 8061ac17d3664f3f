"""Checkpoints of processes that are killed, and of several at once."""

import pathlib
import socket
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np

from t5x_lite.checkpoints.manager import Checkpoints
from tests import processes
from tests.checkpoints.states import Counter, names

ROOT = pathlib.Path(__file__).parents[2]


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
    from t5x_lite.checkpoints.manager import Checkpoints
    from t5x_lite.checkpoints import Retention
    from tests.checkpoints.states import Counter

    def train(run, saved):
      state = {"params": {f"w{i}": jnp.zeros((64, 64)) for i in range(4)}}
      iterator = Counter()
      checkpoints = Checkpoints(run, Retention(last=2))
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
    from t5x_lite.checkpoints.manager import Checkpoints
    from t5x_lite.checkpoints import Retention
    from tests.checkpoints.states import Counter

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
        assert iterator.all_positions == [10 * step, 10 * step + 1]
        w = got["params"]["w"]
        whole = multihost_utils.process_allgather(w, tiled=True)
        np.testing.assert_array_equal(
          whole, np.arange(32, dtype=np.float32).reshape(8, 4) + step
        )

    with Checkpoints(run, Retention()) as checkpoints:
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
  environment = processes.environment(JAX_PLATFORMS="cpu")
  both = [
    run_python(PROCESSES, tmp_path, i, port, env=environment) for i in (0, 1)
  ]
  outputs = [process.communicate(timeout=180)[0] for process in both]
  for process, output in zip(both, outputs, strict=True):
    assert process.returncode == 0, output
    assert "done" in output
  assert names(tmp_path) == ["1", "2", "3.corrupt-1"]

  # One process reads what two have written, their iterators too.
  whole = {"w": jnp.zeros((8, 4)), "b": jnp.zeros(4)}
  params = Checkpoints(tmp_path).restore_params(whole)
  np.testing.assert_array_equal(params["w"], np.arange(32.0).reshape(8, 4) + 2)
  iterator = Counter()
  Checkpoints(tmp_path).restore({"params": whole}, iterator)
  assert iterator.all_positions == [20, 21]
