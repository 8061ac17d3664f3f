"""What devices hold, and what they have room for."""

import math

import jax
import pytest

from t5x_lite.devices import memory, meshes
from t5x_lite.devices.layout import Layout
from tests import tiny
from tests.accounting.test_costs import ADAMW, describe, preset


def test_a_device_holds_its_share():
  def held(rules=(), **mesh):
    layout = Layout(mesh=mesh, rules=rules)
    with meshes.absent(math.prod(mesh.values())):
      account = describe(
        tiny.llama(), 8, optimizer=ADAMW, microbatches=2, layout=layout
      )
    return account["bytes"]

  whole, rows = held(data=1), held(data=4)
  assert rows["parameters"] == whole["parameters"]
  assert rows["activations"] * 4 == pytest.approx(
    whole["activations"], rel=0.02
  )
  assert rows["kv_cache"] * 4 == whole["kv_cache"]
  # Each of two devices has half of the heads and hidden units, and all norms.
  share = held(data=4, tensor=2)
  assert share["kv_cache"] * 2 == rows["kv_cache"]
  for name in ("parameters", "gradients", "optimizer"):
    assert 0.5 < share[name] / rows[name] < 0.8
  assert 0.5 < share["activations"] / rows["activations"] < 0.9
  spread = held(data=4, tensor=2, rules=(("embed", "data"),))
  assert spread["parameters"] < share["parameters"] / 3
  assert spread["total"] < share["total"]


def test_model_too_large_is_refused_with_both_numbers():
  account = describe(preset("palm/8b"), 8, {"targets": 2048}, optimizer=ADAMW)
  with pytest.raises(ValueError) as caught:
    memory.check_memory(account, available=16 * 2**30)
  assert "\n" not in str(caught.value)
  assert "parameters 32.2" in str(caught.value)
  assert "16 are available" in str(caught.value)
  memory.check_memory(account, available=1000 * 2**30)
  with pytest.raises(ValueError, match="a device"):
    memory.check_memory(account, available=16 * 2**30)


def test_tiny_model_fits_this_machine():
  memory.check_memory(describe(tiny.t5(), optimizer=ADAMW))
  memory.check_memory(describe(tiny.t5(), layout=Layout()))
  alone = memory.available_bytes(jax.local_devices()[:1])
  assert alone > 2**20
  assert alone == pytest.approx(
    memory.available_bytes() * jax.local_device_count(), rel=0.5
  )
