"""Parameters of every family under every shipped layout, as last renewed.

    parameter                                 axes                data  fsdp ...
    decoder/layers/layer_0/mlp/wo/kernel      layers=6 mlp=1024    ...  - - fsdp

A layout's column has what shards each dim (PartitionSpec) on 8 devices, or
"whole". The presets are the tiny ones with scanned layers: larger ones have the
same parameters and axes.
"""

import functools

import jax
import pytest

from launch import config
from t5x_lite.devices import meshes
from t5x_lite.devices.layout import Layout, as_axes
from t5x_lite.model import Model
from tests.golden import golden

_GIN = config.shipped_folder() / "gin"
FAMILIES = sorted(path.parent.name for path in _GIN.glob("models/*/tiny.gin"))
DEVICES = 8


@functools.cache
def layouts() -> dict[str, Layout]:
  found = {}
  for path in sorted(_GIN.glob("mesh/*.gin")):
    config.load([f"gin/mesh/{path.name}"])
    found[path.stem] = config.build(Layout)
  return found


def spec(sharding) -> str:
  if not any(sharding.spec):
    return "whole"
  return " ".join("*".join(as_axes(axes)) or "-" for axes in sharding.spec)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_and_their_shardings(family):
  columns = layouts()
  config.load([f"gin/models/{family}/tiny.gin"], ["SCAN=True"])
  model = config.build(Model).fit_vocabulary(1000)
  params, axes = model.abstract(), model.logical_axes()
  with meshes.absent(DEVICES):
    columns = [
      jax.tree.leaves(layout.fit(axes, params).tree_shardings(axes, params))
      for layout in columns.values()
    ]
  rows = [["parameter", "axes", *layouts()]]
  for (path, leaf), names, *shardings in zip(
    jax.tree.leaves_with_path(params),
    jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple)),
    *columns,
    strict=True,
  ):
    assert leaf.dtype == "float32"
    dims = [f"{a}={n}" for a, n in zip(names, leaf.shape, strict=True)]
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    rows.append([name, " ".join(dims), *map(spec, shardings)])
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = (
    "  ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in rows
  )
  golden.check_text(f"shardings/{family}", "".join(lines))


def test_every_layout_shards_or_repeats_something_else():
  assert list(layouts()) == ["data", "fsdp", "hsdp", "tensor"]
  assert len({str(layout.mesh) for layout in layouts().values()}) == 4
