"""Attention against its formula, and its own backward against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from t5x_lite.nn.kernels import Visibility
from t5x_lite.nn.kernels.einsum import attend

B, N, T, S, H = 2, 4, 5, 7, 6
SCALE = 0.4


def formula(q, k, v, bias, mask, scale=SCALE):
  """Softmax attention, with the shared heads repeated."""
  k, v = (jnp.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
  logits = scale * q @ k.swapaxes(-1, -2)
  if bias is not None:
    logits += bias
  return jax.nn.softmax(jnp.where(mask[:, None], logits, -1e30)) @ v


def ours(q, k, v, bias, mask, scale=SCALE, **settings):
  places = (jnp.arange(n)[None] for n in mask.shape[1:])
  ones = (jnp.ones((1, n), int) for n in mask.shape[1:])
  visibility = Visibility(*ones, *places, mask_BTS=mask)
  return attend(
    q, k, v, bias=bias, visibility=visibility, scale=scale, **settings
  )


def draw(num_kv_heads=N, bias_rows=None, mask_rows=B, seed=0):
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return jnp.array(rng.normal(size=shape), jnp.float32)

  q = normal(B, N, T, H)
  k, v = normal(B, num_kv_heads, S, H), normal(B, num_kv_heads, S, H)
  bias = None if bias_rows is None else normal(bias_rows, N, T, S)
  # Each query sees the first key at least.
  mask = jnp.array(rng.random((mask_rows, T, S)) < 0.6).at[:, :, 0].set(True)
  return q, k, v, bias, mask


def gradients(function, args, cotangent):
  def scalar(args):
    return jnp.sum(function(*args, mask).astype(jnp.float32) * cotangent)

  args, mask = args[:4], args[4]
  return jax.jit(jax.grad(scalar))(args)


def test_a_bias_may_be_the_same_for_all_heads():
  q, k, v, bias, mask = draw(num_kv_heads=2, bias_rows=1)
  one = bias[:, :1]
  everywhere = jnp.broadcast_to(one, bias.shape)
  np.testing.assert_array_equal(
    ours(q, k, v, one, mask), ours(q, k, v, everywhere, mask)
  )


@pytest.mark.parametrize(
  "num_kv_heads, bias_rows, mask_rows",
  [(N, None, 1), (N, 1, B), (2, 1, 1), (2, B, B), (1, None, B), (1, B, 1)],
)
def test_output_and_gradients_are_the_formulas(
  num_kv_heads, bias_rows, mask_rows
):
  args = draw(num_kv_heads, bias_rows, mask_rows)
  np.testing.assert_allclose(
    jax.jit(ours)(*args), formula(*args), rtol=1e-5, atol=1e-5
  )
  cotangent = np.random.default_rng(1).normal(size=(B, N, T, H))
  for a, e in zip(
    gradients(ours, args, cotangent), gradients(formula, args, cotangent),
    strict=True,
  ):  # fmt: skip
    if e is not None:
      np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias_rows", [None, 1])
def test_gradients_are_finite_differences(bias_rows):
  q, k, v, bias, mask = draw(2, bias_rows)
  args = (q, k, v) if bias is None else (q, k, v, bias)

  def function(*args):
    return ours(*args[:3], args[3] if bias is not None else None, mask)

  check_grads(
    jax.jit(function), args, order=1, modes=["rev"], rtol=0.02, eps=0.03
  )


@pytest.mark.parametrize("num_kv_heads", [N, 2])
def test_bfloat16_is_the_formula_to_its_precision(num_kv_heads):
  args = draw(num_kv_heads, bias_rows=1)
  half = [x.astype(jnp.bfloat16) for x in args[:3]] + list(args[3:])
  out = jax.jit(ours)(*half)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(out.astype(jnp.float32), formula(*args), atol=0.05)
  cotangent = np.random.default_rng(1).normal(size=(B, N, T, H))
  for a, h, e in zip(
    gradients(ours, half, cotangent), half[:4],
    gradients(formula, args, cotangent), strict=True,
  ):  # fmt: skip
    assert a.dtype == h.dtype
    np.testing.assert_allclose(
      a.astype(jnp.float32), e, atol=0.03 * np.abs(e).max()
    )


def test_bfloat16_softmax_keeps_its_mass_over_many_keys():
  keys = 5000
  q, k = jnp.ones((1, 1, 1, 2)), jnp.zeros((1, 1, keys, 2))
  v = jnp.ones((1, 1, keys, 2))
  q, k, v = (x.astype(jnp.bfloat16) for x in (q, k, v))
  out = ours(q, k, v, None, jnp.ones((1, 1, keys), bool))
  np.testing.assert_allclose(out.astype(jnp.float32), 1.0, atol=0.01)


def test_large_logits_do_not_overflow():
  q, k, v, _, mask = draw()
  args = (1e4 * q, k, v, None, mask)
  np.testing.assert_allclose(ours(*args), formula(*args), atol=1e-4)
  for g in gradients(ours, args, np.ones((B, N, T, H)))[:3]:
    assert np.isfinite(g).all()


@pytest.mark.parametrize("bias_rows", [None, 1])
def test_a_query_that_sees_nothing_gets_and_teaches_nothing(bias_rows):
  q, k, v, bias, mask = draw(2, bias_rows)
  mask = mask.at[:, 1].set(False)
  assert not ours(q, k, v, bias, mask)[:, :, 1].any()
  # A gradient arrives at the blind query alone.
  cotangent = np.zeros((B, N, T, H))
  cotangent[:, :, 1] = np.random.default_rng(1).normal(size=(B, N, H))
  for g in gradients(ours, (q, k, v, bias, mask), cotangent):
    assert g is None or not g.any()


def test_hidden_keys_have_no_influence_and_get_no_gradient():
  q, k, v, bias, mask = draw(2, 1)
  mask = mask.at[:, :, 3].set(False)
  out = ours(q, k, v, bias, mask)
  other = ours(q, k.at[:, :, 3].set(9.0), v.at[:, :, 3].set(9.0), bias, mask)
  np.testing.assert_array_equal(out, other)
  cotangent = np.random.default_rng(1).normal(size=(B, N, T, H))
  _, dk, dv, dbias = gradients(ours, (q, k, v, bias, mask), cotangent)
  for g in (dk[:, :, 3], dv[:, :, 3], dbias[..., 3]):
    np.testing.assert_array_equal(g, 0)


def test_dropout_acts_on_the_probabilities():
  num_kv_heads = 2
  q, k, v, bias, mask = draw(num_kv_heads, 1)
  keep = jnp.array(np.random.default_rng(2).random((B, N, T, S)) < 0.5)

  def drop(probs_BKGTS):
    return jnp.where(keep.reshape(probs_BKGTS.shape), probs_BKGTS * 2, 0)

  out = ours(q, k, v, bias, mask, dropout_mask=drop)
  # By hand: with one-hot values the output is the probabilities themselves.
  one_hot = jnp.broadcast_to(jnp.eye(S), (B, num_kv_heads, S, S))
  probs = formula(q, k, one_hot, bias, mask)
  expected = jnp.einsum(
    "BNTS,BNSH->BNTH", jnp.where(keep, 2 * probs, 0),
    jnp.repeat(v, N // num_kv_heads, axis=1),
  )  # fmt: skip
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
