"""What devices hold, and what they have room for."""

import jax
import pytest

from t5x_lite.devices import memory
from t5x_lite.devices.layout import Layout
from tests import tiny
from tests.accounting.test_costs import ADAMW, describe, preset


def test_a_device_holds_its_share():
  account = describe(tiny.llama(), 8, optimizer=ADAMW, microbatches=2)
  whole = account["bytes"]
  share = memory.device_bytes(account, Layout(mesh={"data": 4, "tensor": 2}))
  assert share["parameters"] == whole["parameters"] // 2
  assert share["optimizer"] == whole["optimizer"] // 2
  assert share["activations"] == whole["activations"] // 4
  spread = Layout(mesh={"data": 4, "tensor": 2}, rules=(("embed", "data"),))
  share = memory.device_bytes(account, spread)
  assert share["parameters"] == whole["parameters"] // 8
  assert share["total"] < whole["total"] / 3


def test_model_too_large_is_refused_with_both_numbers():
  account = describe(preset("palm/8b"), 8, {"targets": 2048}, optimizer=ADAMW)
  with pytest.raises(ValueError) as caught:
    memory.check_memory(account, available=16 * 2**30)
  assert "\n" not in str(caught.value)
  assert "parameters 32.2" in str(caught.value)
  assert "16 are available" in str(caught.value)
  memory.check_memory(account, available=1000 * 2**30)
  with pytest.raises(ValueError, match="a device"):
    memory.check_memory(account, layout=Layout(), available=16 * 2**30)


def test_tiny_model_fits_this_machine():
  memory.check_memory(describe(tiny.t5(), optimizer=ADAMW))
  memory.check_memory(describe(tiny.t5()), layout=Layout())
  alone = memory.available_bytes(jax.local_devices()[:1])
  assert alone > 2**20
  assert alone == pytest.approx(
    memory.available_bytes() * jax.local_device_count(), rel=0.5
  )
