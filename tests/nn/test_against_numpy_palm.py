"""Our PaLM is a NumPy transcription of the paper's section 2."""

import jax
import numpy as np

from tests import tiny


def layer_norm(x, scale):
  """No biases (PaLM, section 2); epsilon as in the preset."""
  x = x - x.mean()
  return x / np.sqrt((x**2).mean() + 1e-6) * scale


def swish(x):
  return x / (1 + np.exp(-x))


def rope(x, position):
  """Turns each pair (i, i + H/2) as one complex number, RoFormer eq. 34."""
  half = len(x) // 2
  theta = 10_000.0 ** (-2 * np.arange(half) / len(x))
  z = (x[:half] + 1j * x[half:]) * np.exp(1j * position * theta)
  return np.concatenate([z.real, z.imag])


def attention(p, x):
  """Multi-query: each head has queries, all share one key and value."""
  num_heads = p["query"]["kernel"].shape[1]
  key, value = p["key"]["kernel"][:, 0], p["value"]["kernel"][:, 0]
  out = np.zeros_like(x)
  for t in range(len(x)):
    keys = [rope(x[s] @ key, s) for s in range(t + 1)]
    values = [x[s] @ value for s in range(t + 1)]
    for n in range(num_heads):
      q = rope(x[t] @ p["query"]["kernel"][:, n], t)
      logits = np.array([q @ k for k in keys]) / np.sqrt(len(q))
      probs = np.exp(logits - logits.max())
      mixed = (probs / probs.sum()) @ np.array(values)
      out[t] += mixed @ p["out"]["kernel"][n]
  return out


def swiglu(p, x):
  gate = swish(x @ p["wi_gate"]["kernel"])
  return (gate * (x @ p["wi_linear"]["kernel"])) @ p["wo"]["kernel"]


def palm_logits(params, ids):
  """y = x + MLP(LayerNorm(x)) + Attention(LayerNorm(x)), per layer."""
  decoder, embedding = params["decoder"], params["token_embedding"]
  x = embedding[ids]
  for i in range(tiny.LAYERS):
    p = decoder[f"layer_{i}"]
    h = np.stack([layer_norm(v, p["attention_norm"]["scale"]) for v in x])
    x = x + swiglu(p["mlp"], h) + attention(p["attention"], h)
  x = np.stack([layer_norm(v, decoder["final_norm"]["scale"]) for v in x])
  return x @ embedding.T / np.sqrt(x.shape[1])


def test_logits_are_the_papers():
  model = tiny.palm()
  params = tiny.random_params(model)
  batch = tiny.batch(model)
  ours = jax.jit(model.logits)(params, batch)
  params = jax.tree.map(np.float64, params)
  for row, ids in enumerate(batch["decoder_input_tokens"]):
    length = batch["decoder_segment_ids"][row].sum()
    np.testing.assert_allclose(
      ours[row, :length], palm_logits(params, ids[:length]), atol=2e-5
    )
