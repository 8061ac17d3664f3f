"""Weight matmuls against einsum, and their own backward against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from t5x_lite.nn import remat
from t5x_lite.nn.kernels import partition
from t5x_lite.nn.linear import Dense, FanIn, Normal, matmul


def normal(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.array(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize("batch_shape", [(), (3,), (2, 3), (2, 3, 4)])
def test_matmul_and_its_backward_are_autodiffs(batch_shape):
  x, w = normal(*batch_shape, 5), normal(5, 7, seed=1)
  cotangent = normal(*batch_shape, 7, seed=2)
  ours, theirs = (
    jax.vjp(f, x, w) for f in (matmul, lambda x, w: jnp.tensordot(x, w, 1))
  )
  np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
  for a, e in zip(ours[1](cotangent), theirs[1](cotangent), strict=True):
    assert a.shape == e.shape
    np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


def test_backward_is_finite_differences():
  args = normal(2, 3, 5), normal(5, 4, seed=1)
  check_grads(matmul, args, order=1, modes=["rev"], rtol=0.02, eps=0.1)


def test_bfloat16_gradients_keep_the_dtypes():
  x, w = normal(4, 5).astype(jnp.bfloat16), normal(5, 7).astype(jnp.bfloat16)
  out, backward = jax.vjp(matmul, x, w)
  dx, dw = backward(jnp.ones_like(out))
  assert [y.dtype for y in (out, dx, dw)] == [jnp.bfloat16] * 3


def test_matmul_maps_over_a_batch_of_rows():
  x, w = normal(3, 2, 5), normal(5, 7, seed=1)

  def loss(w, x):
    return jnp.sum(matmul(x, w) ** 2)

  each = jax.vmap(jax.grad(loss), (None, 0))(w, x)
  np.testing.assert_allclose(
    each.sum(0), jax.grad(loss)(w, x), rtol=1e-4, atol=1e-4
  )


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("use_bias", [False, True])
def test_dense_contracts_and_makes_several_dims(
  monkeypatch, use_bias, platform
):
  monkeypatch.setattr(partition, "platform", lambda: platform)
  x = normal(2, 3, 4, 5)
  dense = Dense(
    (4, 5), (6, 7), ("heads", "head_dim", "embed", "mlp"), use_bias=use_bias
  )
  params = {"kernel": normal(4, 5, 6, 7)}
  expected = jnp.einsum("btnh,nhde->btde", x, params["kernel"])
  if use_bias:
    params["bias"] = normal(6, 7, seed=3)
    expected += params["bias"]
  out, backward = jax.vjp(
    lambda kernel, x: dense.apply({"params": params | {"kernel": kernel}}, x),
    params["kernel"], x,
  )  # fmt: skip
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
  g = normal(*out.shape, seed=4)
  dkernel, dx = backward(g)
  np.testing.assert_allclose(
    dkernel, jnp.einsum("btnh,btde->nhde", x, g), rtol=1e-4, atol=1e-4
  )
  np.testing.assert_allclose(
    dx, jnp.einsum("nhde,btde->btnh", params["kernel"], g), rtol=1e-4, atol=1e-4
  )


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize(("policy", "products"), [("dots", 3), ("full", 4)])
def test_what_a_policy_saves_is_not_computed_again(
  monkeypatch, policy, products, platform
):
  monkeypatch.setattr(partition, "platform", lambda: platform)
  dense = Dense((5,), (7,), ("embed", "mlp"))

  def loss(kernel, x):
    y = dense.apply({"params": {"kernel": kernel}}, x)
    return jnp.sum(jnp.sin(y))

  policy = remat.POLICIES[policy]
  kept = jax.checkpoint(loss, policy=policy)
  gradients = jax.make_jaxpr(jax.grad(kept, (0, 1)))(
    normal(5, 7), normal(2, 3, 5)
  )
  # One forward, two backward, and one more where the output is not saved.
  assert str(gradients).count("dot_general[") == products


@pytest.mark.parametrize("init_scale", [1.0, 0.25])
def test_kernels_start_with_the_variance_of_their_fan_in(init_scale):
  dense = Dense(
    (40, 5),
    (300,),
    ("heads", "head_dim", "embed"),
    kernel_init=FanIn(init_scale),
  )
  kernel = dense.init(jax.random.key(0), jnp.ones((1, 40, 5)))["params"][
    "kernel"
  ].unbox()
  np.testing.assert_allclose(np.var(kernel), init_scale / 200, rtol=0.02)


def test_what_ends_a_branch_starts_smaller_by_the_root_of_branches():
  assert Normal().stddev(7, 11) == 0.02
  # GPT-2 small: 12 layers of two branches each.
  np.testing.assert_allclose(Normal(0.02, 12).stddev(7, 11), 0.02 / 24**0.5)
