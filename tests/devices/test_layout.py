"""Checks Layout on 8 emulated devices: meshes, rules, batches, errors."""

import dataclasses
import logging
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from t5x_lite.devices import layout as layout_lib
from t5x_lite.devices.layout import Layout

GIN_FILES = pathlib.Path(__file__).parents[2] / "gin"
FSDP = (("embed", "data"),)


@pytest.mark.parametrize(
  "sizes, shape",
  [
    ({}, (8, 1)),
    ({"tensor": 4}, (2, 4)),
    ({"tensor": 8}, (1, 8)),
    ({"data": 2, "tensor": -1}, (2, 4)),
    ({"data": 4, "tensor": 2}, (4, 2)),
  ],
)
def test_mesh_takes_all_devices(sizes, shape):
  mesh = Layout(**sizes).mesh()
  assert mesh.devices.shape == shape
  assert mesh.axis_names == ("data", "tensor")
  assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
  assert len(set(mesh.devices.flat)) == 8
  # The same object again, so that compiled functions are found again.
  assert Layout(**sizes).mesh() is mesh


@pytest.mark.parametrize(
  "sizes, message",
  [
    (
      {"data": 3, "tensor": 2},
      r"data \(3\) x tensor \(2\) = 6 does not match 8 devices",
    ),
    ({"data": 1, "tensor": 1}, r"= 1 does not match 8 devices"),
    ({"tensor": 3}, r"tensor \(3\) does not divide 8 devices"),
    ({"tensor": 16}, r"tensor \(16\) does not divide 8 devices"),
    ({"data": 5, "tensor": -1}, r"data \(5\) does not divide 8 devices"),
    ({"data": -1, "tensor": -1}, r"only one of data \(-1\) and tensor \(-1\)"),
    ({"data": 0}, r"Layout\.data \(0\) must be 1 or more, or -1"),
    ({"tensor": 2.0}, r"Layout\.tensor \(2\.0\)"),
    ({"num_slices": 0}, r"num_slices \(0\)"),
    ({"num_slices": 3}, r"num_slices \(3\) is neither .* \(1\) .* \(1\)"),
    ({"rules": (("mlp", "model"),)}, r"\('mlp', 'model'\).*data, tensor, None"),
    ({"rules": (("mlp",),)}, r"\('mlp',\) must be a pair"),
  ],
)
def test_mesh_that_does_not_fit_is_refused(sizes, message):
  with pytest.raises(ValueError, match=message) as error:
    Layout(**sizes).mesh()
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "rules, axes, shape, spec",
  [
    ((), ("batch", "length", "embed"), (4, 9, 16), ("data", None, None)),
    ((), ("embed", "heads", "head_dim"), (16, 8, 4), (None, "tensor", None)),
    ((), ("heads", "head_dim", "embed"), (8, 4, 16), ("tensor", None, None)),
    ((), ("layers", "embed", "mlp"), (3, 16, 24), (None, None, "tensor")),
    ((), ("vocab", "embed"), (32, 16), ("tensor", None)),
    ((), ("buckets", "heads"), (32, 4), (None, "tensor")),
    ((), ("embed",), (16,), (None,)),
    ((), (), (), ()),
    ((), (None, "mlp"), (3, 24), (None, "tensor")),
    # Multi-query attention: one kv head is on every device.
    ((), ("embed", "kv_heads", "head_dim"), (16, 1, 4), (None,) * 3),
    ((), ("embed", "mlp"), (16, 30), (None, None)),
    # FSDP: parameters are spread over "data" too, activations are not.
    (FSDP, ("vocab", "embed"), (32, 16), ("tensor", "data")),
    (FSDP, ("embed",), (16,), ("data",)),
    (FSDP, ("embed",), (15,), (None,)),
    (FSDP, ("batch", "length", "embed"), (4, 9, 16), ("data", None, None)),
    (FSDP, ("embed", "batch"), (16, 4), (None, "data")),
    # Our own rules go first, and None ends the search.
    ((("mlp", None),), ("embed", "mlp"), (16, 24), (None, None)),
    ((("mlp", "data"),), ("embed", "mlp"), (16, 24), (None, "data")),
    # What the first rule's mesh axis does not divide, the next one may.
    ((("mlp", "tensor"), ("mlp", "data")), ("mlp",), (6,), ("data",)),
    ((("gates", None),), ("embed", "gates"), (16, 2), (None, None)),
  ],
)
def test_axes_follow_the_rules(rules, axes, shape, spec):
  layout = Layout(data=2, tensor=4, rules=rules)
  sharding = layout.sharding(axes, shape)
  assert sharding.spec == P(*spec)
  jax.device_put(np.zeros(shape), sharding)  # And JAX accepts it.


def test_axis_without_a_rule_is_refused():
  with pytest.raises(ValueError, match="no rule for the logical axis 'hedas'"):
    Layout().sharding(("embed", "hedas"))


def test_replicated_axis_is_said_once(caplog):
  layout = Layout(data=2, tensor=4)
  with caplog.at_level(logging.INFO, logger="absl"):
    for _ in range(3):
      layout.sharding(("kv_heads",), (3,))
  said = [r.getMessage() for r in caplog.records]
  assert said == [
    "kv_heads (3) is not divisible by tensor (4): each device holds all of it"
  ]


AXES = {
  "embedding": ("vocab", "embed"),
  "layer": {
    "query": ("embed", "heads", "head_dim"),
    "key": ("embed", "kv_heads", "head_dim"),
    "scale": ("embed",),
  },
}
PARAMS = {
  "embedding": jnp.ones((32, 16)),
  "layer": {
    "query": jnp.ones((16, 8, 4)),
    "key": jnp.ones((16, 1, 4)),
    "scale": jnp.ones((16,)),
  },
}


def test_each_device_holds_its_part_of_the_parameters():
  layout = Layout(data=2, tensor=4, rules=FSDP)
  shardings = layout.tree_shardings(AXES, jax.eval_shape(lambda: PARAMS))
  parts = jax.tree.map(
    lambda x: x.addressable_shards[0].data.shape,
    jax.device_put(PARAMS, shardings),
  )
  assert parts == {
    "embedding": (8, 8),
    "layer": {"query": (8, 2, 4), "key": (8, 1, 4), "scale": (8,)},
  }


def test_fit_replicates_what_does_not_divide_somewhere():
  layout = Layout(data=2, tensor=4).fit(AXES, PARAMS)
  assert layout.rules == (("kv_heads", None),)
  assert Layout(data=2, tensor=4).fit({"a": ("mlp",)}, {"a": jnp.ones(8)}) == (
    Layout(data=2, tensor=4)
  )


def test_constraints_hold_inside_an_activated_layout():
  layout = Layout(data=2, tensor=4).fit(AXES, PARAMS)

  @jax.jit
  def project(x_BTD, layer):
    q = jnp.einsum("BTD,DNH->BTNH", x_BTD, layer["query"])
    k = jnp.einsum("BTD,DKH->BTKH", x_BTD, layer["key"])
    q = linen.with_logical_constraint(q, ("batch", "length", "heads", None))
    k = linen.with_logical_constraint(k, ("batch", "length", "kv_heads", None))
    return q, k

  with layout.activate() as mesh:
    assert mesh.shape == {"data": 2, "tensor": 4}
    q, k = project(jnp.ones((4, 3, 16)), PARAMS["layer"])
  assert q.sharding.is_equivalent_to(
    layout.sharding(("batch", None, "heads", None)), 4
  )
  assert k.sharding.is_equivalent_to(
    layout.sharding(("batch", None, None, None)), 4
  )
  assert not linen.get_logical_axis_rules()


def test_batch_rows_are_spread_over_data():
  layout = Layout(data=4, tensor=2)
  rows = np.arange(24, dtype=np.int32).reshape(8, 3)
  batch = layout.shard_batch({"tokens": rows, "weights": rows[:, 0]})
  np.testing.assert_array_equal(batch["tokens"], rows)
  np.testing.assert_array_equal(batch["weights"], rows[:, 0])
  for shard in batch["tokens"].addressable_shards:
    assert shard.data.shape == (2, 3)
  assert layout.data_shard() == (0, 1)


@dataclasses.dataclass(frozen=True)
class FakeDevice:
  """Stands for a device of another process or slice."""

  id: int
  process_index: int
  slice_index: int = 0
  platform: str = "cpu"
  device_kind: str = "cpu"


@pytest.mark.parametrize(
  "shape, process_index, shard",
  [
    # Four processes of two devices each.
    ((8, 1), 0, (0, 4)),
    ((8, 1), 3, (3, 4)),
    ((4, 2), 1, (1, 4)),
    # "tensor" goes across two processes: both read the same rows.
    ((2, 4), 0, (0, 2)),
    ((2, 4), 1, (0, 2)),
    ((2, 4), 2, (1, 2)),
    ((1, 8), 3, (0, 1)),
  ],
)
def test_processes_that_share_rows_read_the_same(
  monkeypatch, shape, process_index, shard
):
  devices = np.array([FakeDevice(i, i // 2) for i in range(8)]).reshape(shape)

  class FakeMesh:
    pass

  FakeMesh.devices = devices
  FakeMesh.shape = {"data": shape[0], "tensor": shape[1]}
  monkeypatch.setattr(Layout, "mesh", lambda self: FakeMesh)
  monkeypatch.setattr(jax, "process_index", lambda: process_index)
  assert Layout().data_shard() == shard


def test_tensor_axis_stays_within_a_slice():
  # Listed in turns: slice 0, 1, 0, 1...
  devices = [FakeDevice(i, i % 2, slice_index=i % 2) for i in range(8)]
  mesh = layout_lib.arrange_slices(devices, (4, 2), None)
  assert mesh.shape == (4, 2)
  slices = [[d.slice_index for d in row] for row in mesh]
  assert slices == [[0, 0], [0, 0], [1, 1], [1, 1]]


def test_processes_may_stand_for_slices():
  devices = [FakeDevice(i, i % 4) for i in range(8)]
  mesh = layout_lib.arrange_slices(devices, (4, 2), 4)
  rows = [[d.process_index for d in row] for row in mesh]
  assert rows == [[0, 0], [1, 1], [2, 2], [3, 3]]
  assert layout_lib.arrange_slices(devices, (4, 2), None) is None


def test_slices_that_do_not_fit_are_refused_only_when_asked_for():
  devices = [FakeDevice(i, i % 2, slice_index=i % 2) for i in range(8)]
  with pytest.raises(ValueError, match=r"data \(1\) must be .* \(2\)"):
    layout_lib.arrange_slices(devices, (1, 8), 2)
  assert layout_lib.arrange_slices(devices, (1, 8), None) is None


def test_batch_that_does_not_divide_is_refused():
  layout = Layout(data=4, tensor=2)
  layout.check_batch(24, microbatches=3)
  message = (
    r"batch_size \(20\) must be divisible by microbatches \(3\) x data \(4\)"
    " = 12"
  )
  with pytest.raises(ValueError, match=message):
    layout.check_batch(20, microbatches=3)
  with pytest.raises(ValueError, match=r"batch_size \(6\).* = 4"):
    layout.shard_batch({"tokens": np.zeros((6, 2), np.int32)})


def test_rules_from_gin_may_be_lists():
  assert Layout(rules=[["embed", "data"]]) == Layout(rules=FSDP)
  hash(Layout(rules=[["embed", "data"]]))


@pytest.mark.parametrize(
  "name, shape", [("data", (8, 1)), ("fsdp", (8, 1)), ("tensor", (4, 2))]
)
def test_gin_file_builds_a_layout(name, shape):
  import gin

  gin.clear_config()
  gin.parse_config_file(str(GIN_FILES / "mesh" / f"{name}.gin"))
  try:
    layout = gin.get_configurable(Layout)()
  finally:
    gin.clear_config()
  assert layout.mesh().devices.shape == shape
  assert layout.rules == (FSDP if name == "fsdp" else ())
