"""Our LLaMA-like decoder is Hugging Face's, grouped queries included."""

import jax
import numpy as np
import pytest

from t5x_lite.decoding import generate
from t5x_lite.losses import CrossEntropy
from tests import tiny

KV_HEADS = 2


@pytest.fixture(scope="module")
def hf():
  """A random Hugging Face LLaMA with the sizes of tiny.llama()."""
  import torch
  import transformers

  torch.set_num_threads(1)  # Threads of both libraries would fight.
  torch.manual_seed(0)
  config = transformers.LlamaConfig(
    vocab_size=tiny.VOCAB,
    hidden_size=tiny.WIDTH,
    intermediate_size=tiny.HIDDEN,
    num_hidden_layers=tiny.LAYERS,
    num_attention_heads=tiny.HEADS,
    num_key_value_heads=KV_HEADS,
    head_dim=tiny.HEAD_DIM,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    attn_implementation="eager",
  )
  model = transformers.LlamaForCausalLM(config).eval()
  with torch.no_grad():
    for p in model.parameters():
      p.add_(0.3 * torch.randn_like(p))
  return model


def to_params(tensors) -> dict:
  """Maps Hugging Face's names and shapes (weights or gradients) to ours."""
  t = {name: np.asarray(x) for name, x in tensors.items()}

  def kernel(name, *shape):
    return {"kernel": t[f"{name}.weight"].T.reshape(*shape)}

  def layer(prefix):
    width, hidden, dim = tiny.WIDTH, tiny.HIDDEN, tiny.HEAD_DIM
    norms = {
      "attention_norm": "input_layernorm",
      "mlp_norm": "post_attention_layernorm",
    }
    return {
      "attention": {
        "query": kernel(f"{prefix}.self_attn.q_proj", width, tiny.HEADS, dim),
        "key": kernel(f"{prefix}.self_attn.k_proj", width, KV_HEADS, dim),
        "value": kernel(f"{prefix}.self_attn.v_proj", width, KV_HEADS, dim),
        "out": kernel(f"{prefix}.self_attn.o_proj", tiny.HEADS, dim, width),
      },
      "mlp": {
        "wi_gate": kernel(f"{prefix}.mlp.gate_proj", width, hidden),
        "wi_linear": kernel(f"{prefix}.mlp.up_proj", width, hidden),
        "wo": kernel(f"{prefix}.mlp.down_proj", hidden, width),
      },
      **{a: {"scale": t[f"{prefix}.{b}.weight"]} for a, b in norms.items()},
    }

  layers = {
    f"layer_{i}": layer(f"model.layers.{i}") for i in range(tiny.LAYERS)
  }
  return {
    "token_embedding": t["model.embed_tokens.weight"],
    "decoder": {**layers, "final_norm": {"scale": t["model.norm.weight"]}},
    "head": t["lm_head.weight"].T,
  }


def weights(hf):
  return to_params({n: p.detach() for n, p in hf.named_parameters()})


def torch_ids(batch, name="decoder_input_tokens"):
  import torch

  return torch.tensor(batch[name]).long()


def test_logits_agree(hf):
  import torch

  model = tiny.llama(num_kv_heads=KV_HEADS)
  batch = tiny.batch(
    model, inputs=(40, 1, 20), targets=(3, 42, 7), input_length=43,
    target_length=0,
  )  # fmt: skip
  with torch.no_grad():
    theirs = hf(torch_ids(batch)).logits.numpy()
  ours = jax.jit(model.logits)(weights(hf), batch)
  real = batch["decoder_segment_ids"] > 0
  np.testing.assert_allclose(ours[real], theirs[real], atol=3e-5, rtol=1e-5)


def test_loss_and_gradients_agree(hf):
  import torch

  loss = CrossEntropy(chunk_tokens=7)
  model = tiny.llama(num_kv_heads=KV_HEADS, loss=loss)
  batch = tiny.batch(model)
  bears_loss = torch.tensor(batch["decoder_loss_weights"]) > 0
  hf.zero_grad()
  their_loss = torch.nn.functional.cross_entropy(
    hf(torch_ids(batch)).logits[bears_loss],
    torch_ids(batch, "decoder_target_tokens")[bears_loss],
  )
  their_loss.backward()
  theirs = to_params({n: p.grad for n, p in hf.named_parameters()})

  def mean_loss(params):
    objective, sums = model.loss_and_metrics(params, batch)
    return objective / sums["denominator"]

  our_loss, ours = jax.jit(jax.value_and_grad(mean_loss))(weights(hf))
  np.testing.assert_allclose(our_loss, their_loss.item(), rtol=1e-5)
  tiny.assert_trees_close(ours, theirs, rtol=1e-4)


def test_greedy_generation_agrees_on_prompts_of_different_lengths(hf):
  model, new = tiny.llama(num_kv_heads=KV_HEADS), 6
  inputs = (7, 2, 5)
  batch = tiny.batch(model, inputs=inputs)
  ours = generate(model, weights(hf), batch, max_new_tokens=new)
  for row, length in enumerate(inputs):
    prompt = torch_ids(batch)[row : row + 1, : length + 1]
    theirs = hf.generate(
      prompt, attention_mask=prompt * 0 + 1, max_new_tokens=new,
      do_sample=False, eos_token_id=-1, pad_token_id=0,
    )  # fmt: skip
    np.testing.assert_array_equal(ours.tokens[row], theirs[0, length + 1 :])
