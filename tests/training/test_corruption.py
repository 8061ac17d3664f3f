"""Flipped bits of one device, and steps that compute otherwise, are noticed."""

import functools
import itertools
import socket
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_lite.devices.layout import Layout
from t5x_lite.files import trees
from t5x_lite.optim import optimizers
from t5x_lite.training import checksums, corruption, step
from t5x_lite.training.corruption import CheckedStep
from tests import processes, tiny

MODEL = tiny.palm(num_layers=1)
OPTIMIZER = optax.adam(0.1)


@pytest.fixture(scope="module")
def training():
  """Yields a compiled step that donates, and makers of its state and batch."""
  layout = Layout(mesh={"data": 4, "tensor": 2})
  layout = layout.fit(MODEL.logical_axes(), MODEL.abstract())
  axes = MODEL.logical_axes()
  opt_axes = optimizers.state_axes(
    jax.eval_shape(OPTIMIZER.init, MODEL.abstract()), axes
  )
  axes = step.TrainState(step=(), params=axes, opt_state=opt_axes)
  function = step.train_step(MODEL, OPTIMIZER, dropout_key=jax.random.key(0))
  init = functools.partial(step.init_state, MODEL, OPTIMIZER)
  key = jax.random.key(0)
  shardings = layout.tree_shardings(axes, jax.eval_shape(init, key))
  batch = tiny.batch(MODEL, inputs=(3,) * 8, targets=(4,) * 8)
  with layout.activate():
    init = jax.jit(init, out_shardings=shardings)
    compiled = jax.jit(
      function,
      donate_argnums=0,
      out_shardings=(shardings, layout.replicated()),
      compiler_options={"xla_backend_optimization_level": 0},
    )
    yield compiled, lambda: init(key), layout.shard_batch(batch)


def flip(array, device_number, bit=3):
  """Returns the array with one bit flipped in what one device holds."""
  shards = [shard.data for shard in array.addressable_shards]
  values = np.array(shards[device_number])
  values.reshape(-1).view(np.uint8)[-1] ^= np.uint8(1 << bit)
  (device,) = shards[device_number].devices()
  shards[device_number] = jax.device_put(values, device)
  return jax.make_array_from_single_device_arrays(
    array.shape, array.sharding, shards
  )


def damaged(tree, name, device_number):
  leaves = trees.named_leaves(tree)
  return trees.with_leaves(
    tree, {**leaves, name: flip(leaves[name], device_number)}
  )


def test_sound_devices_pass_and_give_the_bits_of_a_plain_step(training):
  compiled, state, batch = training
  plain, checked = state(), state()
  run = CheckedStep(compiled, every=2)
  for number in (1, 2, 3, 4):
    plain, metrics = compiled(plain, batch)
    checked, again = run(number, checked, batch)
    for one, other in zip(
      jax.tree.leaves((plain, metrics)), jax.tree.leaves((checked, again)),
      strict=True,
    ):  # fmt: skip
      np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("device", [0, 5])
def test_a_bit_flipped_in_one_copy_names_its_device(training, device):
  compiled, state, batch = training
  name = "params/decoder/final_norm/scale"
  run = CheckedStep(compiled, every=3)
  message = (
    rf"at step 3 state/{name} has other bits in one copy than in another, on "
    rf"device {device} \(process 0\) .*none has passed since"
  )
  with pytest.raises(ValueError, match=message) as error:
    run(3, damaged(state(), name, device), batch)
  assert "\n" not in str(error.value)


def test_damage_between_two_checks_is_noticed_later(training):
  compiled, state, batch = training
  run = CheckedStep(compiled, every=3)
  current = damaged(state(), "params/decoder/final_norm/scale", 2)
  for number in (1, 2):
    current, _ = run(number, current, batch)
  with pytest.raises(ValueError, match="at step 3 state/.* in one copy"):
    # By now other devices have computed with what the damaged one has sent.
    run(3, current, batch)


@pytest.mark.parametrize(["flipped", "named"], [(3, 3), (4, 8), (5, 3)])
def test_the_minority_of_copies_is_wrong_if_there_is_one(
  training, flipped, named
):
  _, state, _ = training
  leaf = state().params["token_embedding"]
  for device in range(flipped):
    leaf = flip(leaf, device)
  wrong = corruption._unequal_copies([leaf], checksums.of_copies([leaf]))
  assert wrong.sum() == named


@pytest.mark.parametrize(
  ["broken_call", "wrong"],
  [
    (1, "on device 6"), (2, "on device 6"),
    (1, "on device 0 .*and 4 more"), (2, "on device 0 .*and 4 more"),
  ],
)  # fmt: skip
def test_a_step_that_computes_otherwise_once_is_noticed(
  training, broken_call, wrong
):
  compiled, state, batch = training
  calls = itertools.count(1)

  def broken(*arguments):
    new_state, metrics = compiled(*arguments)
    if next(calls) != 4 + broken_call:
      return new_state, metrics
    name = "opt_state/0/mu/decoder/layer_0/mlp/wo/kernel"
    if wrong == "on device 6":
      return damaged(new_state, name, 6), metrics
    # An error in a sum over devices reaches all of them.
    leaves = trees.named_leaves(new_state)
    other = jnp.nextafter(leaves[name], jnp.inf)
    return trees.with_leaves(new_state, leaves | {name: other}), metrics

  run, current = CheckedStep(broken, every=2), state()
  for number in (1, 2, 3):
    current, _ = run(number, current, batch)
  message = (
    f"at step 4 state/opt_state/0/mu/.*wo/kernel .*{wrong}.*that of step 2"
  )
  with pytest.raises(ValueError, match=message):
    run(4, current, batch)


def test_without_checks_each_step_is_computed_once(training):
  compiled, state, batch = training
  calls = []
  run = CheckedStep(lambda *a: calls.append(a) or compiled(*a), every=None)
  run(1, state(), batch)
  assert len(calls) == 1


PROCESSES = """
    import sys
    import jax
    import numpy as np
    process, port = map(int, sys.argv[1:])
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"localhost:{port}", 2, process)
    import jax.numpy as jnp
    from t5x_lite.devices import agreement
    from t5x_lite.devices.layout import Layout
    from t5x_lite.training.corruption import CheckedStep
    from t5x_lite.training.step import Metrics, TrainState
    from tests.training.test_corruption import flip

    agreement.check({"seed": "0", "program": "x" * 1000})
    try:
      agreement.check({"seed": "0", "program": "x" * 1000 + "y" * process})
    except ValueError as error:
      print(error)

    def step(state, batch):
      params = {"w": state.params["w"] + jnp.sum(batch["x"])}
      metrics = Metrics({}, {}, state.step, {})
      return TrainState(state.step + 1, params, ()), metrics

    layout = Layout()
    with layout.activate():
      batch = layout.shard_batch({"x": np.ones((4, 3), np.int32)})
      make = jax.jit(
        lambda: TrainState(jnp.int32(0), {"w": jnp.ones((5, 3))}, ()),
        out_shardings=layout.replicated(),
      )
      run = CheckedStep(
        jax.jit(step, out_shardings=layout.replicated()), every=2
      )
      state = make()
      for number in (1, 2, 3):
        state, _ = run(number, state, batch)
      if process == 1:
        state = state.replace(params={"w": flip(state.params["w"], 1)})
      try:
        run(4, state, batch)
      except ValueError as error:
        print(error)
"""


def test_two_processes_name_what_is_wrong_in_one_of_them():
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    port = listener.getsockname()[1]
  environment = processes.environment(JAX_PLATFORMS="cpu")
  code = textwrap.dedent(PROCESSES)
  both = [
    subprocess.Popen(
      [sys.executable, "-c", code, str(i), str(port)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=environment,
    )  # fmt: skip
    for i in (0, 1)
  ]
  outputs = [process.communicate(timeout=180) for process in both]
  assert not any(process.returncode for process in both), outputs
  said = [
    [line for line in output.splitlines() if "Gloo" not in line]
    for output, _ in outputs
  ]
  assert said[0] == said[1]
  differ, corrupt = said[0]
  assert "the processes of this run differ: program is #" in differ
  assert "on process 1, #" in differ
  assert "at step 4 state/params/w has other bits" in corrupt
  # The second device of the second process.
  device = corrupt.partition("on device ")[2]
  assert "(process 1) (Run.sdc_check_every; of earlier" in device
  assert "that of step 2 was the last to pass" in device
