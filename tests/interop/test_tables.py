"""Tables reach every parameter, wherever layers and experts lie."""

import jax
import numpy as np
import pytest

from t5x_lite.interop import placing, tables
from t5x_lite.interop.tables import Entry, Table


def shapes(**leaves):
  tree = {}
  for path, shape in leaves.items():
    *parents, name = path.split("__")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = jax.ShapeDtypeStruct(shape, np.float32)
  return tree


def test_layers_of_a_period_are_numbered_in_turn():
  params = shapes(
    decoder__layers__layer_0__wi=(3, 5), decoder__layers__layer_1__up=(3, 7)
  )
  slots = tables.slots(params)
  assert list(slots) == [
    *(f"decoder/layer_{i}/wi" for i in (0, 2, 4)),
    *(f"decoder/layer_{i}/up" for i in (1, 3, 5)),
  ]
  assert slots["decoder/layer_5/up"] == (
    "decoder/layers/layer_1/up",
    (2,),
    (7,),
  )


def test_experts_are_slices_of_one_parameter():
  table = Table(
    entries=[Entry("h.{i}.expert_{e}.w", "layer_{i}/wi", "O I -> I O")]
  )
  links = tables.link(table, shapes(layers__layer_0__wi=(2, 3, 5, 7)))
  assert [link.theirs for link in links] == [
    f"h.{i}.expert_{e}.w" for i in range(2) for e in range(3)
  ]
  assert links[4].slots == (("layers/layer_0/wi", (1, 1), (5, 7)),)
  assert links[4].shape == (7, 5)


def test_entries_count_where_the_model_has_the_parameter():
  table = Table(
    entries=[
      *tables.under("h.{i}.", "layer_{i}/", tables.dense("fc", "mlp/wi")),
      Entry("h.{i}.router", "layer_{i}/router"),
    ]
  )
  params = shapes(layer_0__mlp__wi__kernel=(5, 7), layer_1__router=(5,))
  links = tables.link(table, params)
  assert [link.theirs for link in links] == ["h.0.fc.weight", "h.1.router"]


def test_parameter_without_an_entry_is_an_error_of_the_table():
  with pytest.raises(AssertionError, match="no entry.*'b'"):
    tables.link(Table(entries=[Entry("x", "a")]), shapes(a=(2,), b=(3,)))


def test_parts_are_placed_where_they_belong():
  values = np.arange(2 * 3 * 5).reshape(2, 3, 5)
  first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  whole = jax.ShapeDtypeStruct(values.shape, np.float32, sharding=first)
  parts = [
    (tables.Slot("w", (i, j), (5,)), values[i, j])
    for i in (1, 0)
    for j in range(3)
  ]
  placed = placing.place(parts, {"w": whole})
  np.testing.assert_array_equal(placed["w"], values)
  for slot, value in parts:
    np.testing.assert_array_equal(placing.take(slot, placed["w"]), value)
