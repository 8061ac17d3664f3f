"""Distances are those of Transformer-XL's section 3.3, in NumPy.

Dai et al. 2019, arXiv:1901.02860.
"""

import math

import jax
import numpy as np
import pytest

from t5x_lite.nn.attention import Attention
from t5x_lite.nn.attention_rules import Causal, TokenInfo
from t5x_lite.nn.contexts import AttentionContexts
from t5x_lite.nn.positions import NoPosition
from t5x_lite.nn.stack import Layer
from t5x_lite.nn.transformer_xl_bias import TransformerXLBias
from tests import tiny

LENGTH = 7
ATTENTION = Attention(
  num_heads=tiny.HEADS, head_dim=tiny.HEAD_DIM, distances=TransformerXLBias()
)


def sinusoids(distance):
  angle = distance * 10_000.0 ** (-np.arange(0, tiny.WIDTH, 2) / tiny.WIDTH)
  return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(-1)


def attended(p, x):
  """Sums the terms (a) to (d) of the paper for each pair of tokens."""
  far, out = p["distances"], np.zeros_like(x)
  for n in range(tiny.HEADS):
    query, key, value = (
      x @ p[name]["kernel"][:, n] for name in ("query", "key", "value")
    )
    u, v = far["key_bias"][n], far["distance_bias"][n]
    for i in range(len(x)):
      logits = []
      for j in range(i + 1):
        r = sinusoids(i - j) @ far["distance"]["kernel"][:, n]
        terms = [query[i] @ key[j], query[i] @ r, u @ key[j], v @ r]
        logits.append(sum(terms) / math.sqrt(tiny.HEAD_DIM))
      probs = np.exp(np.array(logits) - max(logits))
      mixed = probs / probs.sum() @ value[: i + 1]
      out[i] += mixed @ p["out"]["kernel"][n]
  return out


def test_attention_is_the_papers():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, LENGTH, tiny.WIDTH)).astype(np.float32)
  index = np.arange(LENGTH)[None]
  tokens = TokenInfo(index, index, np.ones_like(index), index < 0)
  context = AttentionContexts(tokens, tokens).by_kernel(Causal(), "einsum")
  call = {"position": NoPosition()}
  shapes = jax.eval_shape(
    lambda: ATTENTION.init(jax.random.key(0), x, x, context, **call)
  )["params"]
  params = jax.tree.map(
    lambda leaf: 0.3 * rng.normal(size=leaf.value.shape).astype(np.float32),
    shapes,
    is_leaf=lambda leaf: hasattr(leaf, "value"),
  )
  ours, _ = ATTENTION.apply({"params": params}, x, x, context, **call)
  np.testing.assert_allclose(ours[0], attended(params, x[0]), atol=1e-5)


def test_two_texts_have_no_distances():
  layer = tiny.palm().transformer.decoder.layer
  with pytest.raises(ValueError, match="relates two texts"):
    Layer(
      attention=ATTENTION, cross_attention=ATTENTION, mlp=layer.mlp,
      norm=layer.norm,
    )  # fmt: skip
