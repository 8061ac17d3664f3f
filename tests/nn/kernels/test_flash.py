"""Flash attention: its biases, blocks, precision, and programs for TPUs.

test_same_as_einsum.py has it without a bias, beside other kernels.
"""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh

from t5x_lite.devices.layout import Layout
from t5x_lite.nn.attention_rules import (
  Causal,
  Full,
  LocalWindow,
  PrefixCausal,
  Window,
  visibility,
)
from t5x_lite.nn.kernels import KERNELS, Buckets, Pattern, Slopes, flash_plan
from tests import tiny
from tests.nn.kernels.test_same_as_einsum import assert_same, draw, tokens

SCALE, BUCKETS = 0.4, 8
# Two rows of 300 tokens, three blocks of 128: (first, last + 1, in the prefix).
DOCUMENTS = (((0, 100, 30), (100, 290, 50)), ((0, 260, 140), (260, 300, 0)))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  """Cuts short rows into several blocks."""
  monkeypatch.setattr(flash_plan, "LARGEST_BLOCK", 128)


def two_ways(table_UN):
  """Returns the bias of an encoder."""
  return Buckets(table_UN, bidirectional=True, max_distance=20)


def backwards(table_UN):
  """Returns the bias of a decoder."""
  return Buckets(table_UN, bidirectional=False, max_distance=200)


def slopes(table_UN):
  """Returns ALiBi's bias, with slopes between 0 and 1 that are learned here."""
  return Slopes(jax.nn.sigmoid(table_UN[0]))


def output_and_gradients(kernel, rule, query, key, arrays, bias, soft_cap=None):
  """Returns [B, N, T, H] and the gradients of the arrays and of the bias."""

  def scalar(arrays):
    q, k, v, table_UN, *sink = arrays
    out = KERNELS[kernel].run(
      q, k, v, scale=SCALE, soft_cap=soft_cap, bias=bias(table_UN),
      sink_N=sink[0] if sink else None,
      visibility=visibility(rule, query, key, with_mask=kernel == "einsum"),
    )  # fmt: skip
    weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32))
    return jnp.sum(out * weights.reshape(out.shape)), out

  return tiny.jit(jax.grad(scalar, has_aux=True))(arrays)


def draw_with_table(num_heads, num_kv_heads, query, key, sink=False):
  q, k, v, *sink = draw(num_heads, num_kv_heads, query, key, sink)
  table = np.random.default_rng(1).normal(size=(BUCKETS, num_heads))
  return [q, k, v, jnp.array(table, jnp.float32), *sink]


@pytest.mark.slow
@pytest.mark.parametrize(
  "bias, rule, num_kv_heads, soft_cap, sink",
  [
    (two_ways, Full(), 4, None, False),
    (two_ways, LocalWindow(150), 1, 3.0, False),
    (backwards, Causal(), 2, 3.0, True),
    (backwards, Window(140), 4, None, False),
    (slopes, PrefixCausal(), 2, None, True),
  ],
)
def test_a_bias_by_distance_and_its_gradient_are_einsums(
  bias, rule, num_kv_heads, soft_cap, sink
):
  row = tokens(300, DOCUMENTS)
  arrays = draw_with_table(4, num_kv_heads, row, row, sink)
  found, expected = (
    output_and_gradients(kernel, rule, row, row, arrays, bias, soft_cap)
    for kernel in ("flash", "einsum")
  )
  assert_same(found, expected)


def test_distances_count_from_the_first_query_and_key_of_any_lengths():
  query, key = tokens(140, DOCUMENTS), tokens(300, DOCUMENTS)
  arrays = draw_with_table(2, 2, query, key)
  found, expected = (
    output_and_gradients(kernel, Full(), query, key, arrays, two_ways)
    for kernel in ("flash", "einsum")
  )
  assert_same(found, expected)


def test_the_gradient_of_the_bias_is_summed_over_the_devices():
  row = tokens(128, DOCUMENTS)
  arrays = draw_with_table(4, 2, row, row, sink=True)
  expected = output_and_gradients(
    "einsum", Causal(), row, row, arrays, backwards
  )
  with Layout(mesh={"data": 2, "tensor": 4}).activate():
    found = output_and_gradients("flash", Causal(), row, row, arrays, backwards)
  assert_same(found, expected)


def test_blocks_of_other_documents_and_of_later_keys_are_not_read():
  documents = (((0, 128, 0), (128, 256, 0), (256, 384, 0)),) * 2
  row = tokens(384, documents)
  q, k, v, table = draw_with_table(2, 2, row, row)
  # As large as three documents, of which the first has no numbers.
  k, v = k.at[:, :, :128].set(jnp.nan), v.at[:, :, :128].set(jnp.nan)
  (dq, dk, dv, _), out = output_and_gradients(
    "flash", Causal(), row, row, [q, k, v, table], backwards
  )
  for x in (out, dq, dk, dv):
    assert np.isfinite(x[:, :, 128:]).all()
  assert np.isnan(out[:, :, :128]).all()


def test_bfloat16_is_einsum_in_float32_to_its_precision():
  row = tokens(300, DOCUMENTS)
  arrays = draw_with_table(2, 1, row, row)
  half = [x.astype(jnp.bfloat16) for x in arrays[:3]] + arrays[3:]
  found = output_and_gradients("flash", Causal(), row, row, half, backwards)
  expected = output_and_gradients(
    "einsum", Causal(), row, row, arrays, backwards
  )
  for a, h, e in zip(found[0], half, expected[0], strict=True):
    assert a.dtype == h.dtype
    np.testing.assert_allclose(
      a.astype(jnp.float32), e, atol=0.03 * np.abs(e).max()
    )
  assert found[1].dtype == jnp.bfloat16
  np.testing.assert_allclose(
    found[1].astype(jnp.float32), expected[1], atol=0.05
  )


def test_the_largest_block_is_taken_unless_it_pads_too_much(monkeypatch):
  monkeypatch.undo()
  lengths = {114: 128, 512: 512, 2048: 512, 300: 384, 640: 384, 1000: 512}
  assert {n: flash_plan.block_size(n) for n in lengths} == lengths


@pytest.mark.parametrize(
  "pattern, blocks",
  [
    (Pattern(), 16),
    (Pattern(causal=True), 10),
    (Pattern(causal=True, window=128), 7),
    (Pattern(radius=1), 10),
  ],
)
def test_the_cost_is_that_of_the_products_of_the_blocks_computed(
  pattern, blocks
):
  plan = flash_plan.Plan(
    queries=128,
    keys=128,
    pattern=pattern,
    soft_cap=None,
    gpu=False,
    interpret=False,
  )
  q, k = jnp.zeros((2, 4, 512, 64)), jnp.zeros((2, 1, 512, 64))
  cost = flash_plan.cost(plan, q, k, products=3)
  assert cost.flops == 3 * (2 * 4) * blocks * 2 * 128 * 128 * 64


@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1"])
def test_tpus_run_three_kernels_and_no_array_of_queries_by_keys(
  topology, monkeypatch
):
  # libtpu else asks the network where it is, and one process excludes another.
  for name, value in (
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("TPU_ACCELERATOR_TYPE", "v5p-8"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
    ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
  ):
    monkeypatch.setenv(name, value)
  monkeypatch.setattr(flash_plan, "LARGEST_BLOCK", 512)
  row = tokens(600, DOCUMENTS)
  arrays = draw_with_table(4, 2, row, row, sink=True)
  q, k, v, *rest = arrays
  arrays = [x.astype(jnp.bfloat16) for x in (q, k, v)] + rest

  def loss(arrays, row):
    q, k, v, table_UN, sink_N = arrays
    out = KERNELS["flash"].run(
      q, k, v, scale=SCALE, soft_cap=5.0, bias=backwards(table_UN),
      visibility=visibility(PrefixCausal(), row, row, with_mask=False),
      sink_N=sink_N,
    )  # fmt: skip
    return jnp.sum(out.astype(jnp.float32) ** 2)

  devices = topologies.get_topology_desc(
    platform="tpu", topology_name=topology
  ).devices
  mesh = Mesh(np.array(devices).reshape(2, 2), ("data", "tensor"))
  rules = Layout(mesh=dict(mesh.shape)).all_rules
  abstract = jax.eval_shape(lambda: (arrays, row))
  with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
    program = jax.jit(jax.grad(loss)).lower(*abstract).compile()
  text = program.as_text()
  kernels = re.findall(r"%(\w*flash_\w+?)_*\.\d+ = .* custom-call\(", text)
  assert len(kernels) == 3
  assert "600,600]" not in text and "768,768]" not in text


def with_kernel(model, kernel):
  """Returns a model whose attentions are all computed by a kernel."""

  def change(attention):
    core = dataclasses.replace(attention.core, kernel=kernel)
    return attention.clone(core=core)

  stacks = {}
  for name in ("encoder", "decoder"):
    stack = getattr(model.transformer, name)
    attentions = {
      field: change(attention)
      for field in ("attention", "cross_attention")
      if (attention := getattr(stack.layer, field)) is not None
    }
    stacks[name] = stack.clone(layer=stack.layer.clone(**attentions))
  return dataclasses.replace(
    model, transformer=model.transformer.clone(**stacks)
  )


def test_an_encoder_decoder_trains_as_by_einsum():
  model = tiny.t5(num_layers=1)
  params, batch = tiny.random_params(model), tiny.packed(tiny.batch(model))
  found, expected = (
    tiny.jit(jax.value_and_grad(with_kernel(model, kernel).objective))(
      params, batch
    )
    for kernel in ("flash", "einsum")
  )
  assert_same(found, expected)
