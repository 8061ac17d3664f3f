"""Position encodings against transformers', and by their defining property."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.nn.attention_rules import TokenInfo
from t5x_lite.nn.kernels import partition
from t5x_lite.nn.kernels.bias import relative_bucket
from t5x_lite.nn.positions import (
  Alibi,
  Learned,
  Learned2D,
  Rope,
  Sinusoidal,
  T5Bias,
)


def tokens(position, index=None):
  position = jnp.atleast_2d(jnp.asarray(position))
  index = position if index is None else jnp.atleast_2d(jnp.asarray(index))
  ones = jnp.ones_like(index)
  return TokenInfo(index, position, ones, ones > 0)


def run(position, method, *args, params=None):
  """Calls a method of an encoding, with its parameters."""
  variables = {"params": params} if params else {}
  return position.apply(variables, *args, method=method)


def bias_array(position, query, key, params=None):
  """Returns the bias of an encoding as an array [B or 1, N, T, S]."""
  bias = run(position, "bias", query, key, params=params)
  assert position.bias_kind == type(bias).__name__.lower()
  return bias.array(query.index, key.index)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
  "num_buckets, max_distance", [(32, 128), (8, 12), (30, 100), (64, 1000)]
)
def test_buckets_are_hugging_faces(num_buckets, max_distance, bidirectional):
  import torch
  from transformers.models.t5.modeling_t5 import T5Attention

  distance = np.arange(-5000, 5001)
  settings = {"bidirectional": bidirectional, "num_buckets": num_buckets,
              "max_distance": max_distance}  # fmt: skip

  def bucket(distance):
    return relative_bucket(distance, **settings)

  theirs = T5Attention._relative_position_bucket(
    torch.tensor(distance), **settings
  )
  # Compiled: XLA may divide and take logarithms otherwise than one by one.
  np.testing.assert_array_equal(jax.jit(bucket)(distance), theirs)


def test_buckets_by_hand():
  def buckets(distances, bidirectional):
    return relative_bucket(
      jnp.array(distances), bidirectional=bidirectional, num_buckets=8,
      max_distance=16,
    ).tolist()  # fmt: skip

  # One bucket each for 0..3 tokens back, then ever wider ones; the future is
  # never seen and falls in with "here".
  assert buckets([0, -1, -2, -3, -4, -6, -8, -12, -99, 5], False) == [
    0, 1, 2, 3, 4, 5, 6, 7, 7, 0,
  ]  # fmt: skip
  # Half of the buckets for each direction.
  assert buckets([0, -1, -2, -99, 1, 2, 99], True) == [0, 1, 2, 3, 5, 6, 7]


def test_t5_bias_looks_up_key_minus_query():
  bias = T5Bias(num_heads=2, bidirectional=True, num_buckets=8)
  table = np.arange(16.0, dtype=np.float32).reshape(8, 2)
  out = bias_array(
    bias, tokens([4]), tokens([3, 4, 5]), params={"relative_bias": table}
  )
  # [B, N, T, S]: one token back is bucket 1, here 0, one ahead 5.
  np.testing.assert_array_equal(out[0, 0, 0], table[[1, 0, 5], 0])
  np.testing.assert_array_equal(out[0, 1, 0], table[[1, 0, 5], 1])


@pytest.mark.parametrize("rows", [1, 3])
def test_gradient_of_the_t5_bias_is_autodiffs(rows):
  rng = np.random.default_rng(0)
  bias = T5Bias(num_heads=3, bidirectional=True, num_buckets=8)
  where = tokens(rng.integers(0, 20, (rows, 7)))
  cotangent = rng.normal(size=(rows, 3, 7, 7)).astype(np.float32)
  table = rng.normal(size=(8, 3)).astype(np.float32)

  def ours(table):
    out = bias_array(bias, where, where, params={"relative_bias": table})
    return jnp.sum(out * cotangent)

  def plain(table):
    distance = where.index[:, None, :] - where.index[:, :, None]
    bucket = relative_bucket(
      distance, bidirectional=True, num_buckets=8, max_distance=128
    )
    return jnp.sum(jnp.moveaxis(table[bucket], -1, 1) * cotangent)

  np.testing.assert_allclose(ours(table), plain(table), rtol=1e-5)
  np.testing.assert_allclose(
    jax.grad(ours)(table), jax.grad(plain)(table), rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
def test_rope_is_hugging_faces(base):
  import torch
  from transformers import LlamaConfig
  from transformers.models.llama import modeling_llama

  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 50, 6)).astype(np.float32)
  position = rng.integers(0, 100_000, (2, 50))
  config = LlamaConfig(
    hidden_size=18, num_attention_heads=3, head_dim=6,
    rope_parameters={"rope_type": "default", "rope_theta": base},
  )  # fmt: skip
  cos, sin = modeling_llama.LlamaRotaryEmbedding(config)(
    torch.tensor(x), torch.tensor(position)
  )
  theirs, _ = modeling_llama.apply_rotary_pos_emb(
    torch.tensor(x), torch.tensor(x), cos, sin
  )
  ours = run(Rope(base=base), "rotate", x, tokens(position))
  # An angle of 1e5 is exact to about 4e-3 in float32, in both libraries.
  np.testing.assert_allclose(ours, theirs, atol=2e-2)
  near = position < 2000
  np.testing.assert_allclose(
    np.moveaxis(ours, 1, 2)[near], np.moveaxis(theirs.numpy(), 1, 2)[near],
    atol=1e-3,
  )  # fmt: skip


def test_rope_products_depend_on_distance_alone():
  rng = np.random.default_rng(0)
  q, k = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

  def product(query_position, key_position):
    turned_q = run(Rope(), "rotate", q, tokens([query_position]))
    turned_k = run(Rope(), "rotate", k, tokens([key_position]))
    return float(jnp.sum(turned_q * turned_k))

  assert product(7, 3) == pytest.approx(product(104, 100), abs=1e-4)
  assert product(7, 3) != pytest.approx(product(3, 7), abs=1e-2)


def test_rope_in_bfloat16_turns_by_exact_positions():
  x = jnp.ones((1, 1, 2, 2), jnp.bfloat16)
  # 1000 and 1001 are the same number in bfloat16, but not the same angle.
  turned = run(Rope(), "rotate", x, tokens([1000, 1001])).astype(jnp.float32)
  expected = [[np.cos(p) - np.sin(p), np.sin(p) + np.cos(p)]
              for p in (1000, 1001)]  # fmt: skip
  assert turned.tolist()[0][0] == pytest.approx(np.array(expected), abs=1e-2)


def test_learned_positions_restart_in_each_packed_document():
  table = np.arange(12.0, dtype=np.float32).reshape(6, 2)
  x = jnp.zeros((1, 5, 2))
  out = run(
    Learned(max_length=6), "embed", x,
    tokens([0, 1, 2, 0, 1], index=[0, 1, 2, 3, 4]),
    params={"position_embedding": table},
  )  # fmt: skip
  np.testing.assert_array_equal(out[0], table[[0, 1, 2, 0, 1]])


def test_sinusoids_are_the_papers():
  # Section 3.5: PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos.
  width, places = 6, [0, 1, 5]
  x = jnp.zeros((1, len(places), width))
  ours = run(Sinusoidal(), "embed", x, tokens(places))[0]
  for t, place in enumerate(places):
    for i in range(width // 2):
      angle = place / 10_000 ** (2 * i / width)
      np.testing.assert_allclose(ours[t, 2 * i], np.sin(angle), atol=1e-6)
      np.testing.assert_allclose(ours[t, 2 * i + 1], np.cos(angle), atol=1e-6)


def test_alibi_slopes_are_the_papers():
  assert Alibi(num_heads=8).slopes() == [2**-i for i in range(1, 9)]
  twelve = Alibi(num_heads=12).slopes()
  assert twelve[:8] == Alibi(num_heads=8).slopes()
  assert twelve[8:] == [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]


def test_alibi_falls_with_the_distance():
  row = tokens([0, 1, 2])
  bias = bias_array(Alibi(num_heads=8), row, row)
  np.testing.assert_array_equal(
    bias[0, 0], [[0, -0.5, -1], [-0.5, 0, -0.5], [-1, -0.5, 0]]
  )


def test_tokens_of_a_blank_share_its_place_in_the_text():
  # Du et al. 2021, figure 2: x1 x2 [M] x4 x5 x6 | [S] x3: the blank's tokens
  # have the mask's place, and count within it.
  table = {
    "position_embedding": np.eye(8, 4, dtype=np.float32),
    "block_embedding": 10 * np.arange(4.0)[:, None] * np.ones((4, 4)),
  }
  position = Learned2D(max_length=8, max_blank=3)
  row = tokens([0, 1, 2, 2, 2])._replace(
    features={"block_positions": jnp.array([[0, 0, 0, 1, 2]])}
  )
  ours = run(position, "embed", jnp.zeros((1, 5, 4)), row, params=table)[0]
  expected = np.eye(8, 4)[[0, 1, 2, 2, 2]] + [[0], [0], [0], [10], [20]]
  np.testing.assert_allclose(ours, expected)
  with pytest.raises(ValueError, match="decoder_block_positions"):
    run(
      position, "embed", jnp.zeros((1, 3, 4)), tokens([0, 1, 2]), params=table
    )


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_rope_turns_on_tpus_as_elsewhere(monkeypatch, interleaved, fraction):
  rope = Rope(fraction=fraction, interleaved=interleaved)
  x = jax.random.normal(jax.random.key(0), (2, 3, 5, 8))

  def turned(x):
    return run(rope, "rotate", x, tokens([3, 700, 701, 0, 9]))

  expected, backward = jax.vjp(turned, x)
  monkeypatch.setattr(partition, "platform", lambda: "tpu")
  ours, our_backward = jax.vjp(turned, x)
  np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    our_backward(x)[0], backward(x)[0], rtol=1e-5, atol=1e-6
  )
