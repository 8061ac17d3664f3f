"""The decoder-decoder is YOCO's section 2, in NumPy (arXiv:2405.05254)."""

import math

import jax
import numpy as np

from t5x_lite.model import Model
from t5x_lite.nn.attention import Attention
from t5x_lite.nn.attention_rules import Causal, Window
from t5x_lite.nn.feedforward import Gated
from t5x_lite.nn.norms import RMSNorm
from t5x_lite.nn.positions import Rope
from t5x_lite.nn.stack import Layer, Stack
from t5x_lite.nn.transformer import Transformer
from t5x_lite.nn.yoco import DecoderDecoder
from tests import tiny

WINDOW, KV_HEADS = 3, 2


def yoco(scan=False) -> Model:
  def half(rule, final_norm=None):
    layer = Layer(
      attention=Attention(
        num_heads=tiny.HEADS, num_kv_heads=KV_HEADS, head_dim=tiny.HEAD_DIM
      ),
      mlp=Gated(hidden=tiny.HIDDEN, activation="silu"),
      norm=RMSNorm(),
    )
    return Stack(
      layer=layer,
      num_layers=tiny.LAYERS,
      rule=rule,
      position=Rope(),
      final_norm=final_norm,
      scan=scan,
    )

  decoder = DecoderDecoder(
    self_decoder=half(Window(WINDOW)),
    cross_decoder=half(Causal(), RMSNorm()),
    norm=RMSNorm(),
  )
  return Model(
    transformer=Transformer(
      width=tiny.WIDTH, vocab_size=tiny.VOCAB, decoder=decoder
    )
  )


def dense(p, x):
  return x @ p["kernel"].reshape(x.shape[-1], -1)


def rms_norm(p, x):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"]


def swiglu(p, x):
  """(swish(X W_G) * X W_1) W_2."""
  gate = dense(p["wi_gate"], x)
  gate = gate / (1 + np.exp(-gate))
  return dense(p["wo"], gate * dense(p["wi_linear"], x))


def rope(x, position):
  half = len(x) // 2
  z = x[:half] + 1j * x[half:]
  z = z * np.exp(1j * position * 10_000.0 ** (-np.arange(half) / half))
  return np.concatenate([z.real, z.imag])


def attend(p, x, key, value, window):
  length, width = len(x), tiny.HEAD_DIM
  query = dense(p["query"], x).reshape(length, tiny.HEADS, width)
  mixed = np.zeros_like(query)
  for t in range(length):
    seen = list(range(max(0, t + 1 - window), t + 1))
    for n in range(tiny.HEADS):
      k = n // (tiny.HEADS // KV_HEADS)
      turned = np.array([rope(key[s, k], s) for s in seen])
      logits = turned @ rope(query[t, n], t) / math.sqrt(width)
      probs = np.exp(logits - logits.max())
      mixed[t, n] = probs / probs.sum() @ value[seen, k]
  return dense(p["out"], mixed.reshape(length, -1))


def keys_and_values(p, x, prefix=""):
  return (
    dense(p[f"{prefix}{name}"], x).reshape(len(x), KV_HEADS, tiny.HEAD_DIM)
    for name in ("key", "value")
  )


def logits(params, ids):
  x = params["token_embedding"][ids]
  lower = params["decoder"]["self_decoder"]
  upper = params["decoder"]["cross_decoder"]
  for i in range(tiny.LAYERS):  # Eq. 1, efficient self-attention.
    p = lower[f"layer_{i}"]
    h = rms_norm(p["attention_norm"], x)
    kv = keys_and_values(p["attention"], h)
    x = x + attend(p["attention"], h, *kv, WINDOW)
    x = x + swiglu(p["mlp"], rms_norm(p["mlp_norm"], x))
  normed = rms_norm(params["decoder"]["shared_norm"], x)
  kv = list(keys_and_values(params["decoder"], normed, "shared_"))  # Eq. 2.
  for i in range(tiny.LAYERS):  # Eq. 3, cross-attention to the one cache.
    p = upper[f"layer_{i}"]
    h = rms_norm(p["attention_norm"], x)
    x = x + attend(p["attention"], h, *kv, len(ids))
    x = x + swiglu(p["mlp"], rms_norm(p["mlp_norm"], x))
  return rms_norm(upper["final_norm"], x) @ params["head"]


def test_logits_are_the_papers():
  model = yoco()
  params, batch = tiny.random_params(model), tiny.batch(model)
  ours = tiny.jit(model.logits)(params, batch)
  params = jax.tree.map(np.float64, params)
  for row, ids in enumerate(batch["decoder_input_tokens"]):
    length = batch["decoder_segment_ids"][row].sum()
    theirs = logits(params, ids[:length])
    np.testing.assert_allclose(ours[row, :length], theirs, atol=5e-5)


def test_upper_half_has_no_keys_of_its_own():
  params = yoco().abstract()["decoder"]
  assert params["self_decoder"]["layer_0"]["attention"].keys() == {
    "query", "key", "value", "out",
  }  # fmt: skip
  attention = params["cross_decoder"]["layer_0"]["attention"]
  assert attention.keys() == {"query", "out"}
