"""Flash attention's passes for GPUs: interpreted, and lowered for one."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from t5x_lite.nn.attention_rules import (
  Causal,
  Full,
  PrefixCausal,
  visibility,
)
from t5x_lite.nn.kernels import KERNELS, flash_device, flash_plan
from tests.nn.kernels.test_flash import (
  DOCUMENTS,
  SCALE,
  backwards,
  draw_with_table,
  output_and_gradients,
  slopes,
  two_ways,
)
from tests.nn.kernels.test_same_as_einsum import SOURCES, assert_same, tokens

ABSENT = AbstractMesh(
  (1,), ("data",),
  abstract_device=jax.sharding.AbstractDevice("NVIDIA H100", 1, "gpu"),
)  # fmt: skip


@pytest.fixture
def interpreted(monkeypatch):
  """Makes a CPU interpret a GPU's passes rather than a TPU's."""
  attend = flash_device.attend
  monkeypatch.setattr(
    flash_device,
    "attend",
    lambda *arrays, gpu, **settings: attend(*arrays, gpu=True, **settings),
  )


def no_bias(table_UN):
  """Returns no bias."""


@pytest.mark.parametrize(
  "rule, num_heads, num_kv_heads, bias, soft_cap, sink",
  [
    (Causal(), 4, 2, backwards, 3.0, True),
    (PrefixCausal(), 2, 1, slopes, None, False),
  ],
)
def test_self_attention_is_einsums(
  rule, num_heads, num_kv_heads, bias, soft_cap, sink, interpreted
):
  row = tokens(150, DOCUMENTS)
  arrays = draw_with_table(num_heads, num_kv_heads, row, row, sink)
  found, expected = (
    output_and_gradients(kernel, rule, row, row, arrays, bias, soft_cap)
    for kernel in ("flash", "einsum")
  )
  assert_same(found, expected)


def test_a_source_of_another_length_is_einsums(interpreted):
  query, key = tokens(140, DOCUMENTS), tokens(90, SOURCES)
  arrays = draw_with_table(2, 2, query, key)
  found, expected = (
    output_and_gradients(kernel, Full(), query, key, arrays, two_ways)
    for kernel in ("flash", "einsum")
  )
  assert_same(found, expected)
  out = found[1]
  # Queries without a source get zeros, not the mean of what they may not see.
  assert not out[0, :, 100:].any() and not out[1].any()


def test_blocks_of_other_documents_and_of_later_keys_are_not_read(interpreted):
  row = tokens(192, (((0, 64, 0), (64, 128, 0), (128, 192, 0)),) * 2)
  q, k, v, _ = draw_with_table(2, 2, row, row)
  out = KERNELS["flash"].run(
    q, k.at[:, :, :64].set(jnp.nan), v.at[:, :, :64].set(jnp.nan),
    visibility=visibility(Causal(), row, row, with_mask=False), scale=SCALE,
  )  # fmt: skip
  assert np.isfinite(out[:, :, 64:]).all()
  assert np.isnan(out[:, :, :64]).all()


@pytest.mark.parametrize(
  "head_dim, dtype, size",
  [(8, "bfloat16", 64), (128, "bfloat16", 64), (256, "float32", 32)],
)
def test_blocks_fit_into_the_memory_of_a_gpu(head_dim, dtype, size):
  assert flash_plan.gpu_block_size(head_dim * jnp.dtype(dtype).itemsize) == size


@pytest.mark.parametrize("bias, passes", [(backwards, 4), (no_bias, 3)])
def test_gpus_run_triton_and_no_array_of_queries_by_keys(bias, passes):
  row = tokens(600, DOCUMENTS)
  q, k, v, *rest = draw_with_table(4, 2, row, row, sink=True)
  arrays = [x.astype(jnp.bfloat16) for x in (q, k, v)] + rest

  def loss(arrays):
    q, k, v, table_UN, sink_N = arrays
    out = KERNELS["flash"].run(
      q, k, v, scale=SCALE, soft_cap=5.0, bias=bias(table_UN),
      visibility=visibility(PrefixCausal(), row, row, with_mask=False),
      sink_N=sink_N,
    )  # fmt: skip
    return jnp.sum(out.astype(jnp.float32) ** 2)

  with jax.sharding.use_abstract_mesh(ABSENT):
    traced = jax.jit(jax.grad(loss)).trace(arrays)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
  calls = re.findall(r"custom_call @(\S*triton\w*)\(", text)
  assert len(calls) == passes
  assert not re.search(r"x(600x600|640x640)x", text)
