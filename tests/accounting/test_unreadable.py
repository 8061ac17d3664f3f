"""What programs of another version of JAX leave unknown."""

import json
import math

import pytest

from launch import describe as launch_describe
from t5x_lite.accounting import traces
from t5x_lite.devices import memory
from t5x_lite.files import json_text
from tests import tiny
from tests.accounting.test_costs import ADAMW, describe


@pytest.mark.parametrize(
  ["broken", "unknown"],
  [
    ("_scan", {"activations", "total"}),
    ("matmul_flops", {"flops_per_step", "flops_per_token"}),
    ("inner", {"flops_per_step", "flops_per_token", "activations", "total"}),
  ],
)
@pytest.mark.parametrize(
  "error", [KeyError("num_carry"), AttributeError("jaxpr")], ids=repr
)
def test_what_cannot_be_read_off_a_program_is_not_known_and_all_else_is(
  broken, unknown, error, monkeypatch, warnings
):
  def renamed(*_):
    raise error

  known = describe(tiny.palm(), optimizer=ADAMW)
  monkeypatch.setattr(traces, broken, renamed)
  account = describe(tiny.palm(), optimizer=ADAMW)
  for part, whole in ((account, known), (account["bytes"], known["bytes"])):
    for name, size in part.items():
      if name in unknown:
        assert math.isnan(size)
      elif name not in ("flops", "bytes"):
        assert size == whole[name]
  assert account["parameters"] == known["parameters"]
  assert str(error) in warnings()[0] and "unknown" in warnings()[0]
  memory.check_memory(account)
  table = launch_describe._table(
    account, tiny.palm(), {"lengths": {}, "batch_size": 3, "optimizer": ADAMW}
  )
  assert table.count("unknown") == len(unknown)
  written = json.loads(json_text.dumps(account), parse_constant=str)
  assert written["parameters"] == known["parameters"]
  for name in unknown:
    assert written.get(name, written["bytes"].get(name)) is None


# Memory.
