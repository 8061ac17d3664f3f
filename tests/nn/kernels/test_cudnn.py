"""What cuDNN is told, and that it means the same as einsum's mask and bias."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.devices.layout import Layout
from t5x_lite.nn.attention import Attention, CoreAttention
from t5x_lite.nn.attention_rules import (
  Causal,
  Full,
  TokenInfo,
  Window,
  visibility,
)
from t5x_lite.nn.kernels import Buckets, cudnn, einsum
from tests import tiny

N, K, T, H, SCALE = 4, 2, 12, 8, 0.4
# One document a row and then padding, the last row of padding alone; packed
# documents; and padding before the document.
ALONE = ([1] * 12, [1] * 5 + [0] * 7, [0] * 12)
PACKED = ([1] * 4 + [2] * 8, [1] * 3 + [2] * 7 + [0] * 2, [1] * 12)
PADDED_FIRST = ([0] * 3 + [1] * 9, [1] * 12, [1] * 12)


def tokens(segments):
  segment = jnp.array(segments, jnp.int32)
  index = jnp.arange(segment.shape[1])[None]
  return TokenInfo(index, index, segment, segment < 0)


def draw(source=T, dtype=jnp.float32):
  rng = np.random.default_rng(0)
  shapes = (3, N, T, H), (3, K, source, H), (3, K, source, H)
  return [jnp.array(rng.normal(size=shape), dtype) for shape in shapes]


@pytest.fixture
def compiled_for_cuda(monkeypatch):
  """Returns what a function of the arrays tells cuDNN: a dict per call."""
  from jax._src.cudnn import fused_attention_stablehlo

  # JAX asks for the version of the cuDNN that is here.
  monkeypatch.setattr(
    fused_attention_stablehlo, "check_cudnn_version", lambda: 91000
  )

  def calls(function, *arrays):
    lowered = jax.jit(function).trace(*arrays)
    text = lowered.lower(lowering_platforms=("cuda",)).as_text()
    found = re.findall(r'__cudnn\$(\w+)\(.*backend_config = "(.*?)"', text)
    return [
      (
        name,
        json.loads(config.replace("\\22", '"'))["cudnn_fmha_backend_config"],
      )
      for name, config in found
    ]

  return calls


@pytest.mark.parametrize(
  "rule, mask_type, window",
  [(Full(), "", 0), (Causal(), "CAUSAL", 0), (Window(5), "CAUSAL", 5)],
)
def test_causality_windows_and_lengths_are_flags(
  compiled_for_cuda, rule, mask_type, window
):
  row = tokens(ALONE)
  seen = visibility(rule, row, row, with_mask=False)

  def scalar(q, k, v):
    out = cudnn.attend(q, k, v, visibility=seen, scale=SCALE)
    return jnp.sum(out.astype(jnp.float32))

  calls = compiled_for_cuda(jax.grad(scalar), *draw(dtype=jnp.bfloat16))
  told = {
    (name, of["mask_type"], of["sliding_window_length"]) for name, of in calls
  }
  padded = "_".join(("PADDING", mask_type)).rstrip("_")
  # A bias is read in the branch of packed rows alone, for their mask.
  assert told == {
    ("fmhaSoftmax", padded, window),
    ("fmhaSoftmaxBackward", padded, window),
    ("fmhaScaleBiasSoftmax", mask_type or "NO_MASK", window),
    ("fmhaScaleBiasSoftmaxBackward", mask_type or "NO_MASK", window),
  }
  assert {of["fmha_scale"] for _, of in calls} == {SCALE}


def test_each_device_computes_its_rows_and_heads_backward_too(
  compiled_for_cuda,
):
  row = tokens([[1] * T] * 4)
  seen = visibility(Causal(), row, row, with_mask=False)
  table_UN = jnp.zeros((8, N))
  arrays = [jnp.zeros((4, heads, T, H), jnp.bfloat16) for heads in (N, K, K)]

  @jax.checkpoint
  def scalar(q, k, v, table_UN):
    bias = Buckets(table_UN, bidirectional=True, max_distance=9)
    out = cudnn.attend(q, k, v, visibility=seen, bias=bias, scale=SCALE)
    return jnp.sum(out.astype(jnp.float32))

  with Layout(mesh={"data": 4, "tensor": 2}).activate():
    calls = compiled_for_cuda(
      jax.grad(scalar, argnums=(0, 3)), *arrays, table_UN
    )
  shapes = {
    tuple(map(int, of["intermediate_tensor_shape"]["dimensions"]))
    for _, of in calls
  }
  assert shapes == {(1, N // 2, T, T)}


@pytest.fixture
def as_jax_defines_it(monkeypatch):
  """Lets JAX's own implementation of the flags stand in for cuDNN."""
  plain = functools.partial(jax.nn.dot_product_attention)

  def on_cpu(*arrays, implementation, **flags):
    assert implementation == "cudnn"
    return plain(*arrays, implementation="xla", **flags)

  monkeypatch.setattr(jax.nn, "dot_product_attention", on_cpu)


@pytest.mark.parametrize(
  "rule, segments, source, has_bias",
  [
    (Full(), ALONE, None, True),
    (Causal(), PACKED, None, True),
    (Causal(), PADDED_FIRST, None, False),
    (Window(5), ALONE, None, False),
    (Full(), ALONE, ([1] * 6, [1] * 3 + [0] * 3, [1] * 6), False),
    (Full(), PACKED, ([1] * 6, [1] * 3 + [0] * 3, [1] + [2] * 5), False),
  ],
)
def test_flags_mean_the_same_as_einsums_mask(
  as_jax_defines_it, rule, segments, source, has_bias
):
  query = tokens(segments)
  key = query if source is None else tokens(source)
  table_UN = jax.random.normal(jax.random.key(0), (8, N))

  @functools.partial(jax.jit, static_argnums=0)
  def output_and_gradients(attend, arrays):
    def scalar(arrays):
      q, k, v, table_UN = arrays
      bias = Buckets(table_UN, bidirectional=True, max_distance=9)
      out = attend(
        q, k, v, scale=SCALE, bias=bias if has_bias else None,
        visibility=visibility(rule, query, key, with_mask=True),
      )  # fmt: skip
      return jnp.sum(jnp.sin(out)), out

    return jax.grad(scalar, has_aux=True)(arrays)

  arrays = [*draw(key.segment.shape[1]), table_UN]
  found, expected = (
    output_and_gradients(kernel.attend, arrays) for kernel in (cudnn, einsum)
  )
  for a, e in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


def test_a_model_with_the_kernel_is_initialised_and_probed_without_a_gpu():
  layer = tiny.palm().transformer.decoder.layer
  attention = Attention(
    num_heads=N, head_dim=H, core=CoreAttention(kernel="cudnn")
  )
  layer = layer.clone(attention=attention)
  model = tiny.replace_stacks(tiny.palm(), layer=layer, num_layers=1)
  params, batch = tiny.random_params(model), tiny.batch(model)
  probes = tiny.jit(model.probe)(params, batch)
  (probs_BNTS,) = probes["decoder"]["layer_0"]["attention"]["attention"]
  real_B1T = (batch["decoder_segment_ids"] != 0)[:, None]
  np.testing.assert_allclose(
    probs_BNTS.sum(axis=-1), np.broadcast_to(real_B1T, probs_BNTS.shape[:3]),
    rtol=1e-5,
  )  # fmt: skip
  with pytest.raises(ValueError, match="cudnn' does not take the platform cpu"):
    tiny.jit(model.logits)(params, batch)
