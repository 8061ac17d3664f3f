"""Our T5 v1.1 is Hugging Face's, to rounding: logits, loss and gradients."""

import jax
import numpy as np
import pytest

from t5x_lite.decoding import generate
from t5x_lite.losses import CrossEntropy
from tests import tiny

TARGETS = "decoder_target_tokens"


@pytest.fixture(scope="module")
def hf():
  """A random Hugging Face T5 with the sizes of tiny.t5()."""
  import torch
  import transformers

  torch.set_num_threads(1)  # Threads of both libraries would fight.
  torch.manual_seed(0)
  config = transformers.T5Config(
    vocab_size=tiny.VOCAB,
    d_model=tiny.WIDTH,
    d_kv=tiny.HEAD_DIM,
    d_ff=tiny.HIDDEN,
    num_layers=tiny.LAYERS,
    num_heads=tiny.HEADS,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=12,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
    dropout_rate=0.0,
    decoder_start_token_id=0,
    attn_implementation="eager",
  )
  model = transformers.T5ForConditionalGeneration(config).eval()
  # transformers 5 ties the head whatever the config says; v1.1 has its own.
  head = torch.randn(tiny.VOCAB, tiny.WIDTH) * tiny.WIDTH**-0.5
  model.lm_head.weight = torch.nn.Parameter(head)
  with torch.no_grad():
    for p in model.parameters():
      # Norm scales too are moved off their initial ones.
      p.add_(0.3 * torch.randn_like(p))
  return model


def to_params(tensors) -> dict:
  """Maps Hugging Face's names and shapes (weights or gradients) to ours."""
  t = {name: np.asarray(x) for name, x in tensors.items()}

  def attention(prefix):
    heads = {"query": "q", "key": "k", "value": "v"}
    kernels = {
      name: {"kernel": t[f"{prefix}.{letter}.weight"].T.reshape(
        tiny.WIDTH, tiny.HEADS, tiny.HEAD_DIM)}
      for name, letter in heads.items()
    }  # fmt: skip
    out = t[f"{prefix}.o.weight"].T
    out = out.reshape(tiny.HEADS, tiny.HEAD_DIM, tiny.WIDTH)
    return {**kernels, "out": {"kernel": out}}

  def stack(side):
    branches = [("attention", "SelfAttention")]
    if side == "decoder":
      branches.append(("cross_attention", "EncDecAttention"))
    out = {"final_norm": {"scale": t[f"{side}.final_layer_norm.weight"]}}
    for i in range(tiny.LAYERS):
      block, layer = f"{side}.block.{i}.layer", {}
      for j, (ours, theirs) in enumerate(branches):
        layer[ours] = attention(f"{block}.{j}.{theirs}")
        scale = t[f"{block}.{j}.layer_norm.weight"]
        layer[f"{ours}_norm"] = {"scale": scale}
      last = f"{block}.{len(branches)}"
      layer["mlp_norm"] = {"scale": t[f"{last}.layer_norm.weight"]}
      names = {"wi_gate": "wi_0", "wi_linear": "wi_1", "wo": "wo"}
      layer["mlp"] = {
        ours: {"kernel": t[f"{last}.DenseReluDense.{theirs}.weight"].T}
        for ours, theirs in names.items()
      }
      out[f"layer_{i}"] = layer
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    out["position"] = {"relative_bias": t[f"{side}.{bias}"]}
    return out

  return {
    "token_embedding": t["shared.weight"],
    "encoder": stack("encoder"),
    "decoder": stack("decoder"),
    "head": t["lm_head.weight"].T,
  }


def weights(hf):
  return to_params({n: p.detach() for n, p in hf.named_parameters()})


def torch_inputs(batch):
  import torch

  def side(name):
    return {
      "ids": torch.tensor(batch[f"{name}_input_tokens"]).long(),
      "mask": torch.tensor(batch[f"{name}_segment_ids"]),
    }

  encoder, decoder = side("encoder"), side("decoder")
  return {
    "input_ids": encoder["ids"],
    "attention_mask": encoder["mask"],
    "decoder_input_ids": decoder["ids"],
    "decoder_attention_mask": decoder["mask"],
  }


def test_parameter_trees_match(hf):
  ours = jax.tree.map(lambda x: x.shape, tiny.t5().abstract())
  assert ours == jax.tree.map(lambda x: x.shape, weights(hf))


def test_logits_agree_with_padded_inputs_and_targets(hf):
  import torch

  model = tiny.t5()
  logits = jax.jit(model.logits)
  for seed in range(3):
    batch = tiny.batch(
      model, inputs=(40, 1, 17), targets=(3, 31, 1), input_length=41,
      target_length=33, seed=seed,
    )  # fmt: skip
    with torch.no_grad():
      theirs = hf(**torch_inputs(batch)).logits.numpy()
    real = batch["decoder_segment_ids"] > 0
    np.testing.assert_allclose(
      logits(weights(hf), batch)[real], theirs[real], atol=3e-5, rtol=1e-5
    )


def test_loss_and_gradients_agree(hf):
  import torch

  model = tiny.t5(loss=CrossEntropy(chunk_tokens=5))
  batch = tiny.batch(model)
  labels = np.where(batch["decoder_loss_weights"] > 0, batch[TARGETS], -100)
  hf.zero_grad()
  their_loss = hf(
    **torch_inputs(batch), labels=torch.tensor(labels).long()
  ).loss
  their_loss.backward()
  theirs = to_params({n: p.grad for n, p in hf.named_parameters()})

  def mean_loss(params):
    objective, sums = model.loss_and_metrics(params, batch)
    return objective / sums["denominator"]

  our_loss, ours = jax.jit(jax.value_and_grad(mean_loss))(weights(hf))
  np.testing.assert_allclose(our_loss, their_loss.item(), rtol=1e-5)
  tiny.assert_trees_close(ours, theirs, rtol=1e-4)


def test_greedy_generation_agrees(hf):
  model, new = tiny.t5(), 9
  batch = tiny.batch(model, inputs=(8, 2, 5))
  ours = generate(model, weights(hf), batch, max_new_tokens=new, eos_id=1)
  inputs = torch_inputs(batch)
  theirs = hf.generate(
    inputs["input_ids"], attention_mask=inputs["attention_mask"],
    max_new_tokens=new, do_sample=False, eos_token_id=1, pad_token_id=0,
  ).numpy()[:, 1:]  # fmt: skip
  theirs = np.pad(theirs, ((0, 0), (0, new - theirs.shape[1])))
  np.testing.assert_array_equal(ours.tokens, theirs)
