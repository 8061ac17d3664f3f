"""The shipped presets' parameters, as they were when last renewed."""

import jax
import pytest

from launch import config
from t5x_lite.model import Model
from tests.golden import golden


@pytest.mark.parametrize("name", ["t5_1_1", "palm", "prefix_lm", "encoder"])
def test_parameters_of_the_tiny_presets(name):
  config.load([f"gin/models/{name}/tiny.gin"])
  model = config.build(Model).fit_vocabulary(1000)
  described = {}

  def describe(path, parameter, axes):
    path = jax.tree_util.keystr(path, simple=True, separator="/")
    dims = [f"{a}={n}" for a, n in zip(axes, parameter.shape, strict=True)]
    described[path] = f"{parameter.dtype}[{', '.join(dims)}]"

  jax.tree.map_with_path(describe, model.abstract(), model.logical_axes())
  golden.check(f"parameters_{name}", described)


@pytest.mark.parametrize(
  "preset, parameters",
  [
    ("t5_1_1/small", 76_961_152),
    ("t5_1_1/base", 247_577_856),
    ("t5_1_1/large", 783_150_080),
    ("t5_1_1/xl", 2_849_757_184),
    ("t5_1_1/xxl", 11_135_332_352),
    ("palm/8b", 8.63e9),
    ("palm/62b", 62.50e9),
    ("palm/540b", 540.35e9),
  ],
)
def test_presets_have_the_published_number_of_parameters(preset, parameters):
  # Layers stacked or not have as many, and stacked ones are traced once.
  config.load([f"gin/models/{preset}.gin"], ["SCAN=True"])
  leaves = jax.tree.leaves(config.build(Model).abstract())
  # The papers give PaLM's to two decimals of a billion.
  assert sum(p.size for p in leaves) == pytest.approx(
    parameters, rel=3e-4 if "palm" in preset else 0
  )
