"""Checks Layout on 8 emulated devices: meshes, rules, batches, errors."""

import logging
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from t5x_lite.devices.layout import Layout

GIN_FILES = pathlib.Path(__file__).parents[2] / "gin"
FSDP = (("embed", "data"),)
HSDP = {"data": 2, "fsdp": 2, "tensor": 2}
BOTH = ("data", "fsdp")


@pytest.mark.parametrize(
  "mesh, shape",
  [
    ({"data": -1}, (8,)),
    ({"data": -1, "tensor": 4}, (2, 4)),
    ({"data": 2, "tensor": -1}, (2, 4)),
    ({"data": 4, "tensor": 2}, (4, 2)),
    ({"tensor": 4, "data": 2}, (4, 2)),
    ({"data": -1, "fsdp": 2, "tensor": 2}, (2, 2, 2)),
    ({"data": -1, "tensor": 8, "pipeline": 1}, (1, 8, 1)),
  ],
)
def test_mesh_takes_all_devices_in_the_order_of_its_axes(mesh, shape):
  device_mesh = Layout(mesh=mesh).device_mesh()
  assert device_mesh.devices.shape == shape
  assert device_mesh.axis_names == tuple(mesh)
  assert set(device_mesh.axis_types) == {AxisType.Auto}
  assert len(set(device_mesh.devices.flat)) == 8
  # The same object again, so that compiled functions are found again.
  assert Layout(mesh=dict(mesh)).device_mesh() is device_mesh


@pytest.mark.parametrize(
  "mesh, message",
  [
    (
      {"data": 3, "tensor": 2},
      r"data \(3\) x tensor \(2\) = 6 does not match 8 devices",
    ),
    ({"data": 1}, r"data \(1\) = 1 does not match 8 devices"),
    ({"data": -1, "tensor": 3}, r"tensor \(3\) does not divide 8 devices"),
    ({"data": -1, "tensor": 16}, r"tensor \(16\) does not divide 8 devices"),
    (
      {"data": 3, "fsdp": -1, "tensor": 2},
      r"data \(3\) x tensor \(2\) does not divide 8 devices",
    ),
    (
      {"data": -1, "tensor": -1},
      r"only one axis of data \(-1\) x tensor \(-1\) can be -1",
    ),
    ({"data": 0}, r"Layout\.mesh: data \(0\) must be 1 or more, or -1"),
    ({"tensor": 2.0}, r"Layout\.mesh.*tensor.* \(2\.0\) must be"),
    ({"tenosr": 4}, r"Layout\.mesh: no rule uses tenosr \(4\)"),
    ({}, r"Layout\.mesh \({}\) must map mesh axes to numbers of devices"),
    (8, r"Layout\.mesh \(8\) must be of type Mapping"),
  ],
)
def test_mesh_that_does_not_fit_is_refused(mesh, message):
  with pytest.raises(ValueError, match=message) as error:
    Layout(mesh=mesh).device_mesh()
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"num_slices": 0}, r"num_slices \(0\)"),
    ({"num_slices": 3}, r"num_slices \(3\) is neither .* \(1\) .* \(1\)"),
    (
      {"rules": (("mlp", "model"),)},
      r"\('mlp', 'model'\) must name axes of Layout.mesh, .* \(data, tensor\)",
    ),
    ({"rules": (("mlp", ("data", "model")),)}, r"\(data, tensor\), or None"),
    ({"rules": (("mlp", ("data", "data")),)}, "each once"),
    ({"rules": (("mlp",),)}, r"\('mlp',\).* must be of type tuple"),
  ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
  with pytest.raises(ValueError, match=message) as error:
    Layout(mesh={"data": -1, "tensor": 1}, **settings).device_mesh()
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
  layout = Layout(mesh={"data": 2, "tensor": 4}, rules=rules)
  sharding = layout.sharding(axes, shape)
  assert sharding.spec == P(*spec)
  jax.device_put(np.zeros(shape), sharding)  # And JAX accepts it.


@pytest.mark.parametrize(
  "mesh, rules, axes, shape, spec",
  [
    # Hybrid FSDP: rows over both axes, the width of parameters over one.
    (HSDP, (), ("batch", "length", "embed"), (8, 9, 16), (BOTH, None, None)),
    (HSDP, (), ("embed", "mlp"), (16, 24), ("fsdp", "tensor")),
    (HSDP, (), ("embed",), (15,), (None,)),
    # A tuple of axes is taken as a whole or not at all.
    (HSDP, (("mlp", BOTH),), ("embed", "mlp"), (16, 24), (None, BOTH)),
    (HSDP, (("mlp", BOTH),), ("mlp",), (24,), (BOTH,)),
    (HSDP, (("mlp", BOTH),), ("mlp",), (6,), ("tensor",)),
    (HSDP, (("embed", BOTH),), ("batch", "embed"), (8, 16), (BOTH, None)),
    # Default rules leave out what the mesh has not.
    ({"fsdp": 8}, (), ("batch", "embed"), (8, 16), ("fsdp", None)),
    ({"fsdp": 8}, (), ("embed", "mlp"), (16, 24), ("fsdp", None)),
    ({"data": 8}, (), ("embed", "mlp"), (16, 24), (None, None)),
    ({"tensor": 8}, (), ("batch", "mlp"), (8, 24), (None, "tensor")),
  ],
)
def test_default_rules_follow_the_axes_of_the_mesh(
  mesh, rules, axes, shape, spec
):
  sharding = Layout(mesh=mesh, rules=rules).sharding(axes, shape)
  assert sharding.spec == P(*spec)
  jax.device_put(np.zeros(shape), sharding)  # And JAX accepts it.


def test_tokens_of_activations_keys_and_tables_are_sharded_apart():
  layout = Layout(
    mesh={"data": 2, "sequence": 4}, rules=(("length", "sequence"),)
  )
  specs = [
    layout.sharding(axes).spec
    for axes in (
      ("batch", "length", "heads", "head_dim"),
      ("batch", "kv_length", "kv_heads", "head_dim"),
      ("positions", "embed"),
    )
  ]
  assert specs == [
    P("data", "sequence", None, None), P("data", None, None, None),
    P(None, None),
  ]  # fmt: skip


def test_axis_without_a_rule_is_refused():
  with pytest.raises(ValueError, match="no rule for the logical axis 'hedas'"):
    Layout().sharding(("embed", "hedas"))


def test_replicated_axis_is_said_once(caplog):
  layout = Layout(mesh={"data": 2, "tensor": 4})
  with caplog.at_level(logging.INFO, logger="absl"):
    for _ in range(3):
      layout.sharding(("kv_heads",), (3,))
  said = [r.getMessage() for r in caplog.records]
  assert said == [
    "kv_heads (3) is not divisible by tensor (4): it is not sharded over them"
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
  layout = Layout(mesh={"data": 2, "tensor": 4}, rules=FSDP)
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
  layout = Layout(mesh={"data": 2, "tensor": 4}).fit(AXES, PARAMS)
  assert layout.rules == (("kv_heads", None),)
  assert Layout(mesh={"data": 2, "tensor": 4}).fit(
    {"a": ("mlp",)}, {"a": jnp.ones(8)}
  ) == (Layout(mesh={"data": 2, "tensor": 4}))


def test_constraints_hold_inside_an_activated_layout():
  layout = Layout(mesh={"data": 2, "tensor": 4}).fit(AXES, PARAMS)

  @jax.jit
  def project(x_BTD, layer):
    q = jnp.einsum("BTD,DNH->BTNH", x_BTD, layer["query"])
    k = jnp.einsum("BTD,DKH->BTKH", x_BTD, layer["key"])
    q = linen.with_logical_constraint(q, ("batch", "length", "heads", None))
    k = linen.with_logical_constraint(
      k, ("batch", "kv_length", "kv_heads", None)
    )
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
  layout = Layout(mesh={"data": 4, "tensor": 2})
  rows = np.arange(24, dtype=np.int32).reshape(8, 3)
  batch = layout.shard_batch({"tokens": rows, "weights": rows[:, 0]})
  np.testing.assert_array_equal(batch["tokens"], rows)
  np.testing.assert_array_equal(batch["weights"], rows[:, 0])
  for shard in batch["tokens"].addressable_shards:
    assert shard.data.shape == (2, 3)
  assert layout.data_shard() == (0, 1)


def test_batch_that_does_not_divide_is_refused():
  layout = Layout(mesh={"data": 4, "tensor": 2})
  layout.check_batch(24, microbatches=3)
  message = (
    r"batch_size \(20\) must be divisible by microbatches \(3\) x data \(4\)"
    " = 12"
  )
  with pytest.raises(ValueError, match=message):
    layout.check_batch(20, microbatches=3)
  hybrid = Layout(mesh=HSDP)
  with pytest.raises(ValueError, match=r"x data \(2\) x fsdp \(2\) = 4"):
    hybrid.check_batch(6)
  with pytest.raises(ValueError, match=r"batch_size \(6\).* = 4"):
    layout.shard_batch({"tokens": np.zeros((6, 2), np.int32)})


def test_rules_from_gin_may_be_lists():
  mesh = {"data": 4, "fsdp": 2}
  layout = Layout(mesh=mesh, rules=[["embed", ["data"]], ["mlp", [*BOTH]]])
  same = Layout(mesh=mesh, rules=(("embed", "data"), ("mlp", BOTH)))
  assert layout == same
  assert hash(layout) == hash(same)


@pytest.mark.parametrize(
  "mesh, other",
  [
    ({"data": 3, "tensor": 5}, {"data": 8, "tensor": 1}),
    ({"data": 2, "fsdp": 16}, {"data": 1, "fsdp": 8}),
    ({"tensor": 16}, {"tensor": 1, "data": 8}),
  ],
)
def test_mesh_of_other_devices_keeps_its_axes(mesh, other):
  layout = Layout(mesh=mesh, rules=(("mlp", tuple(mesh)),))
  assert layout.for_any_devices().mesh_sizes(8) == other


def built(text):
  """Returns the layout of a gin file."""
  import gin

  gin.clear_config()
  try:
    gin.parse_config(text)
    return gin.get_configurable(Layout)()
  finally:
    gin.clear_config()


@pytest.mark.parametrize(
  "name, shape, rows, kernel",
  [
    ("data", {"data": 8}, "data", P(None, None)),
    ("fsdp", {"fsdp": 8}, "fsdp", P("fsdp", None)),
    ("hsdp", {"data": 4, "fsdp": 2}, BOTH, P("fsdp", None)),
    ("tensor", {"data": 4, "tensor": 2}, "data", P(None, "tensor")),
  ],
)
def test_gin_file_builds_a_layout(name, shape, rows, kernel):
  layout = built((GIN_FILES / "mesh" / f"{name}.gin").read_text())
  assert layout.mesh_sizes(8) == shape
  assert layout.batch_sharding().spec == P(rows)
  assert layout.sharding(("embed", "mlp")).spec == kernel


def test_a_new_mesh_axis_is_a_line_in_a_gin_file():
  layout = built(
    "from __gin__ import dynamic_registration\n"
    "from t5x_lite.devices import layout\n"
    'layout.Layout.mesh = {"data": -1, "expert": 4}\n'
    'layout.Layout.rules = (("experts", "expert"),)\n'
  )
  assert layout.mesh_sizes(8) == {"data": 2, "expert": 4}
  spec = layout.sharding(("experts", "embed", "mlp"), (8, 16, 24)).spec
  assert spec == P("expert", None, None)


def test_layouts_of_another_order_of_axes_differ():
  one, other = (
    Layout(mesh={"data": 2, "tensor": 4}), Layout(mesh={"tensor": 4, "data": 2})
  )  # fmt: skip
  assert one != other and hash(one) != hash(other)
  assert one == Layout(mesh={"data": 2, "tensor": 4})
