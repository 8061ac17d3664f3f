"""Norms, activations and feed-forward layers against PyTorch; dropout."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.nn.dropout import dropout
from t5x_lite.nn.feedforward import ACTIVATIONS, MLP, Gated
from t5x_lite.nn.kernels import partition
from t5x_lite.nn.norms import LayerNorm, RMSNorm

X = np.random.default_rng(0).normal(2.0, 3.0, (2, 3, 8)).astype(np.float32)
SCALE, BIAS = np.linspace(-1, 2, 8, dtype=np.float32), np.float32(range(8))


def test_norms_are_pytorchs():
  import torch.nn.functional as F
  from torch import tensor

  for norm, params, expected in [
    (RMSNorm(), {"scale": SCALE},
     F.rms_norm(tensor(X), (8,), tensor(SCALE), 1e-6)),
    (LayerNorm(), {"scale": SCALE, "bias": BIAS},
     F.layer_norm(tensor(X), (8,), tensor(SCALE), tensor(BIAS), 1e-5)),
    (LayerNorm(use_bias=False), {"scale": SCALE},
     F.layer_norm(tensor(X), (8,), tensor(SCALE), None, 1e-5)),
  ]:  # fmt: skip
    ours = norm.apply({"params": params}, X)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", [RMSNorm(), LayerNorm(use_bias=False)])
def test_bfloat16_norms_take_their_statistics_in_float32(norm):
  # A mean of squares of 300^2: its bfloat16 sum over 4096 would be far off.
  x = jnp.where(jnp.arange(4096) % 2, 300.0, -300.0).astype(jnp.bfloat16)[None]
  params = {"scale": np.ones(4096, np.float32)}
  y = norm.apply({"params": params}, x)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.abs(y.astype(jnp.float32)), 1.0)


def test_activations_are_pytorchs():
  import torch.nn.functional as F
  from torch import tensor

  theirs = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "tanh": F.tanh,
    "relu_squared": lambda x: F.relu(x) ** 2,
  }
  assert set(theirs) == set(ACTIVATIONS)
  for name, activation in theirs.items():
    np.testing.assert_allclose(
      ACTIVATIONS[name](X), activation(tensor(X)), rtol=1e-4, atol=1e-5
    )


def kernel(*shape, seed):
  return {"kernel": np.random.default_rng(seed).normal(size=shape)}


def test_plain_and_gated_feed_forward():
  wi, gate, wo = (
    kernel(8, 5, seed=1), kernel(8, 5, seed=2), kernel(5, 8, seed=3),
  )  # fmt: skip
  plain = MLP(hidden=5).apply({"params": {"wi": wi, "wo": wo}}, X)
  expected = np.maximum(X @ wi["kernel"], 0) @ wo["kernel"]
  np.testing.assert_allclose(plain, expected, rtol=1e-4, atol=1e-4)
  gated = Gated(hidden=5).apply(
    {"params": {"wi_gate": gate, "wi_linear": wi, "wo": wo}}, X
  )
  expected = np.maximum(X @ gate["kernel"], 0) * (X @ wi["kernel"])
  np.testing.assert_allclose(
    gated, expected @ wo["kernel"], rtol=1e-4, atol=1e-4
  )


class Dropping(nn.Module):
  def __call__(self, x):
    return dropout(self, x, 0.25)


def test_dropout_keeps_the_mean_and_needs_a_key():
  x = jnp.ones(100_000)
  np.testing.assert_array_equal(Dropping().apply({}, x), x)
  y = Dropping().apply({}, x, rngs={"dropout": jax.random.key(0)})
  np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
  np.testing.assert_allclose(np.mean(y), 1.0, atol=0.01)


def test_gradients_kept_apart_on_tpus_are_the_same(monkeypatch):
  mlp = Gated(hidden=5, activation="silu")
  params = mlp.init(jax.random.key(0), X)

  def gradient(params, x):
    def loss(params, x):
      return jnp.sum(mlp.apply(params, x) ** 2)

    return jax.grad(loss, (0, 1))(params, x)

  expected = gradient(params, X)
  monkeypatch.setattr(partition, "platform", lambda: "tpu")
  assert "optimization_barrier" in str(jax.make_jaxpr(gradient)(params, X))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4),
    gradient(params, X), expected,
  )  # fmt: skip
