"""Training steps compiled for a TPU that is not here."""

import os
import re

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding

from t5x_lite.devices.layout import Layout
from t5x_lite.nn.attention import Attention, CoreAttention
from tests import tiny

LENGTH = 384
# Of attention over all keys: two dims of the length, in whatever order.
OVER_ALL_KEYS = re.compile(rf"\w+\[(?:\d+,)*{LENGTH},{LENGTH}(?:,\d+)*\]")
LAYOUT = Layout(mesh={"data": 2, "tensor": 2})


@pytest.fixture(scope="module")
def mesh():
  """Returns the mesh of four chips of a v5e."""
  # Without these, libtpu asks the network where it is, and lets no two
  # processes load it, though none of them uses a TPU.
  for name, value in (
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("TPU_ACCELERATOR_TYPE", "v5litepod-4"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
    ("TPU_LOG_DIR", "disabled"),
    ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
  ):
    os.environ.setdefault(name, value)
  from jax.experimental import topologies

  found = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
  return Mesh(np.array(found.devices).reshape(2, 2), tuple(LAYOUT.mesh))


def gradient_program(model, mesh) -> str:
  """Returns the compiled gradient of a batch of 4 rows, as HLO."""
  model = tiny.with_vocab(model, 64)
  layer = model.transformer.decoder.layer
  # As Layout.fit has it: one key head cannot be shared out.
  one = [("kv_heads", None)] if layer.attention.kv_heads == 1 else []
  rules = [*one, *LAYOUT.all_rules]
  axes, params = model.logical_axes(), model.abstract()
  inputs = 0 if model.transformer.encoder is None else LENGTH
  rows = model.row_format.row_lengths({"inputs": inputs, "targets": LENGTH})
  batch = model.abstract_batch(4, rows)
  with jax.set_mesh(mesh), nn.logical_axis_rules(rules):

    def place(x, names):
      sharding = NamedSharding(mesh, nn.logical_to_mesh_axes(names))
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    placed = (
      jax.tree.map(place, params, axes),
      jax.tree.map(lambda x: place(x, ("batch", None)), batch),
    )
    return jax.jit(jax.grad(model.objective)).lower(*placed).compile().as_text()


def with_attention(model, kernel="auto", **settings):
  layer = model.transformer.decoder.layer
  attention = Attention(
    num_heads=4, head_dim=64, core=CoreAttention(kernel=kernel), **settings
  )
  return tiny.replace_stacks(model, layer=layer.clone(attention=attention))


@pytest.mark.parametrize(
  "model",
  [
    with_attention(
      tiny.llama(dtype="bfloat16", scan=True, remat="full"), num_kv_heads=2
    ),
    with_attention(tiny.prefix_lm(num_layers=1), num_kv_heads=1),
  ],
  ids=["llama", "prefix_lm"],
)
def test_no_array_of_queries_and_keys_is_left(model, mesh):
  program = gradient_program(model, mesh)
  assert "splash_mha_fwd" in program and "splash_mha_dkv" in program
  assert not set(OVER_ALL_KEYS.findall(program))


def test_no_array_of_queries_and_keys_is_left_of_an_encoder_decoder(mesh):
  program = gradient_program(tiny.t5(num_layers=1, dtype="bfloat16"), mesh)
  assert "flash_forward" in program and "flash_backward_queries" in program
  assert "splash_mha_fwd" in program  # Cross-attention has no position bias.
  assert not set(OVER_ALL_KEYS.findall(program))


def test_einsum_has_arrays_of_queries_and_keys(mesh):
  model = with_attention(tiny.llama(num_layers=1), "einsum", num_kv_heads=2)
  program = gradient_program(model, mesh)
  assert "splash" not in program and OVER_ALL_KEYS.search(program)
