"""DeepNorm, RoPE and GeGLU together are GLM-130B's section 2, in NumPy.

Zeng et al. 2022, arXiv:2210.02414; Wang et al. 2022 (DeepNorm),
arXiv:2203.00555.
"""

import math

import jax
import numpy as np

from t5x_lite.model import Model
from t5x_lite.nn.attention import Attention, Projections
from t5x_lite.nn.attention_rules import PrefixCausal
from t5x_lite.nn.feedforward import Gated
from t5x_lite.nn.heads import LMHead
from t5x_lite.nn.linear import Xavier
from t5x_lite.nn.norms import LayerNorm
from t5x_lite.nn.positions import Rope
from t5x_lite.nn.stack import Layer, Stack
from t5x_lite.nn.transformer import Transformer
from tests import tiny

N = tiny.LAYERS
ALPHA = math.sqrt(2 * N)  # GLM-130B, section 2.1.
BETA = (8 * N) ** -0.25  # DeepNorm, table 1: decoder-only.


def glm() -> Model:
  layer = Layer(
    attention=Attention(
      num_heads=tiny.HEADS,
      head_dim=tiny.HEAD_DIM,
      projections=Projections(
        use_bias=True,
        kernel_init=Xavier(),
        value_init=Xavier(BETA),
        out_init=Xavier(BETA),
      ),
    ),
    mlp=Gated(
      hidden=tiny.HIDDEN,
      activation="gelu",
      use_bias=True,
      kernel_init=Xavier(BETA),
    ),
    norm=LayerNorm(),
    norm_placement="post",
    residual_scale=ALPHA,
  )
  return Model(
    transformer=Transformer(
      width=tiny.WIDTH,
      vocab_size=tiny.VOCAB,
      decoder=Stack(
        layer=layer, num_layers=N, rule=PrefixCausal(), position=Rope()
      ),
      lm_head=LMHead(tied=True),
    )
  )


def dense(p, x):
  kernel = p["kernel"].reshape(x.shape[-1], -1)
  return x @ kernel + p["bias"].reshape(-1)


def layer_norm(p, x):
  x = x - x.mean(-1, keepdims=True)
  deviation = np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
  return x / deviation * p["scale"] + p["bias"]


def gelu(x):
  return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def rope(x, position):
  half = len(x) // 2
  z = x[:half] + 1j * x[half:]
  z = z * np.exp(1j * position * 10_000.0 ** (-np.arange(half) / half))
  return np.concatenate([z.real, z.imag])


def attention(p, x, prefix):
  length, width = len(x), tiny.HEAD_DIM
  q, k, v = (
    dense(p[n], x).reshape(length, tiny.HEADS, width)
    for n in ("query", "key", "value")
  )
  mixed = np.zeros_like(q)
  for t in range(length):
    seen = [s for s in range(length) if s <= t or s < prefix]
    for n in range(tiny.HEADS):
      turned = [rope(k[s, n], s) for s in seen]
      logits = np.array(turned) @ rope(q[t, n], t) / math.sqrt(width)
      probs = np.exp(logits - logits.max())
      mixed[t, n] = probs / probs.sum() @ v[seen, n]
  return dense(p["out"], mixed.reshape(length, -1))


def ffn_geglu(p, x):
  """FFN_GeGLU(x) = (GeLU(x W1) * x V) W2, section 2.1."""
  return dense(p["wo"], gelu(dense(p["wi_gate"], x)) * dense(p["wi_linear"], x))


def logits(params, ids, prefix):
  x = params["token_embedding"][ids]
  for i in range(N):
    p = params["decoder"][f"layer_{i}"]
    attended = attention(p["attention"], x, prefix)
    x = layer_norm(p["attention_norm"], ALPHA * x + attended)
    x = layer_norm(p["mlp_norm"], ALPHA * x + ffn_geglu(p["mlp"], x))
  return x @ params["token_embedding"].T


def test_logits_are_the_papers():
  model = glm()
  params, batch = tiny.random_params(model), tiny.batch(model)
  ours = tiny.jit(model.logits)(params, batch)
  params = jax.tree.map(np.float64, params)
  for row, ids in enumerate(batch["decoder_input_tokens"]):
    length = batch["decoder_segment_ids"][row].sum()
    prefix = batch["decoder_causal_attention"][row].sum()
    theirs = logits(params, ids[:length], prefix)
    np.testing.assert_allclose(ours[row, :length], theirs, atol=5e-5)


def test_values_outputs_and_feed_forward_start_smaller():
  params = tiny.jit(glm().init)(jax.random.key(0))["decoder"]["layer_0"]

  def gain(*path):
    kernel = params
    for name in path:
      kernel = kernel[name]
    kernel = np.asarray(kernel["kernel"])
    fans = tiny.WIDTH + kernel.size // tiny.WIDTH
    return kernel.std() * math.sqrt(fans / 2)

  small = [("attention", "value"), ("attention", "out"), ("mlp", "wo")]
  for path in small:
    np.testing.assert_allclose(gain(*path), BETA, rtol=0.15)
  np.testing.assert_allclose(gain("attention", "query"), 1.0, rtol=0.15)
