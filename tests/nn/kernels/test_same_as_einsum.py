"""Each kernel against einsum on a CPU, in float32: outputs and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.devices.layout import Layout
from t5x_lite.nn.attention_rules import (
  Causal,
  Full,
  LocalWindow,
  PrefixCausal,
  TokenInfo,
  Window,
  visibility,
)
from t5x_lite.nn.kernels import KERNELS
from tests import tiny

HEAD_DIM, SCALE = 8, 0.4
# Those that a CPU compiles or interprets.
OTHERS = [
  name for name, row in KERNELS.items()
  if name != "einsum" and (row.interpreted or row.compiles_for("cpu"))
]  # fmt: skip
# The documents of two rows: (first, last + 1, of which in the prefix).
PACKED = (((0, 60, 20), (60, 130, 1)), ((0, 70, 0), (70, 140, 69)))
WHOLE = (((0, 256, 100),), ((0, 256, 256),))
# The second document of the first row has no source, nor has the last row.
SOURCES = (((0, 30, 0), (30, 30, 0), (30, 90, 0)), ())


def tokens(length, documents):
  """Returns where the tokens of two rows of documents stand."""
  segment = np.zeros((2, length), np.int32)
  prefix = np.zeros((2, length), bool)
  for row, bounds in enumerate(documents):
    for number, (first, end, in_prefix) in enumerate(bounds, start=1):
      segment[row, first:end] = number
      prefix[row, first : first + in_prefix] = True
  index = jnp.arange(length)[None]
  return TokenInfo(index, index, jnp.array(segment), jnp.array(prefix))


def draw(num_heads, num_kv_heads, query, key, sink, seed=0):
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return jnp.array(rng.normal(size=shape), jnp.float32)

  (rows, length), source = query.segment.shape, key.segment.shape[1]
  arrays = [normal(rows, num_heads, length, HEAD_DIM)]
  arrays += [normal(rows, num_kv_heads, source, HEAD_DIM) for _ in range(2)]
  return arrays + ([normal(num_heads)] if sink else [])


def output_and_gradients(kernel, rule, query, key, arrays, soft_cap):
  """Returns [B, N, T, H] and the gradients of the arrays."""

  def scalar(arrays):
    q, k, v, *sink = arrays
    out = KERNELS[kernel].run(
      q, k, v, scale=SCALE, soft_cap=soft_cap, bias=None,
      sink_N=sink[0] if sink else None,
      visibility=visibility(rule, query, key, with_mask=kernel == "einsum"),
    )  # fmt: skip
    weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32))
    return jnp.sum(out * weights.reshape(out.shape)), out

  return tiny.jit(jax.grad(scalar, has_aux=True))(arrays)


def assert_same(found, expected):
  for a, e in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    most = max(1.0, np.abs(e).max())
    np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5 * most)


@pytest.mark.parametrize("kernel", OTHERS)
@pytest.mark.parametrize(
  "rule, num_heads, num_kv_heads, length, documents, soft_cap, sink",
  [
    (Causal(), 4, 2, 140, PACKED, None, False),
    (Causal(), 2, 2, 256, WHOLE, 2.0, True),
    (PrefixCausal(), 2, 1, 140, PACKED, None, True),
    (Window(20), 2, 1, 140, PACKED, 3.0, False),
    (LocalWindow(9), 2, 2, 140, PACKED, None, True),
    (Full(), 4, 2, 140, PACKED, None, False),
  ],
)
def test_self_attention_is_einsums(
  kernel, rule, num_heads, num_kv_heads, length, documents, soft_cap, sink
):
  row = tokens(length, documents)
  arrays = draw(num_heads, num_kv_heads, row, row, sink)
  of = functools.partial(
    output_and_gradients, rule=rule, query=row, key=row, arrays=arrays,
    soft_cap=soft_cap,
  )  # fmt: skip
  assert_same(of(kernel), of("einsum"))


@pytest.mark.parametrize("kernel", OTHERS)
def test_cross_attention_to_a_source_of_another_length_is_einsums(kernel):
  query, key = tokens(140, PACKED), tokens(90, SOURCES)
  arrays = draw(2, 2, query, key, True)
  found, expected = (
    output_and_gradients(name, Full(), query, key, arrays, soft_cap=None)
    for name in (kernel, "einsum")
  )
  assert_same(found, expected)
  out = found[1]
  # Queries without a source get zeros, not the mean of what they may not see.
  assert not out[0, :, 60:].any() and not out[1].any()
  assert out[0, :, :60].all()


@pytest.mark.parametrize("kernel", OTHERS)
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_devices_that_share_rows_and_heads_compute_the_same(
  kernel, num_kv_heads
):
  row = tokens(128, PACKED)
  arrays = draw(4, num_kv_heads, row, row, True)
  expected = output_and_gradients(
    "einsum", Causal(), row, row, arrays, soft_cap=None
  )
  layout = Layout(mesh={"data": 2, "tensor": 4})
  with layout.activate():
    found = output_and_gradients(
      kernel, Causal(), row, row, arrays, soft_cap=None
    )
  assert_same(found, expected)
