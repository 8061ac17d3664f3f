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
