"""The account against sums by hand, the traced program and XLA's own."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from jax.extend import core

from launch import config
from t5x_lite.accounting import costs
from t5x_lite.devices import memory
from t5x_lite.losses.cross_entropy import CrossEntropy
from t5x_lite.model import Model
from t5x_lite.nn.attention import CoreAttention
from t5x_lite.optim.optimizers import Adafactor, AdamW
from t5x_lite.training import step
from tests import tiny

LENGTHS = {"inputs": 8, "targets": 7}
BATCH = 3
ADAMW = AdamW(learning_rate=1e-3, clip_norm=1.0, weight_decay=0.1)


def describe(model, batch_size=BATCH, lengths=LENGTHS, **settings):
  return costs.describe(
    model, batch_size=batch_size, lengths=lengths, **settings
  )


def preset(name, **macros):
  macros = {"SCAN": True, **macros}
  config.load(
    [f"gin/models/{name}.gin"], [f"{k}={v}" for k, v in macros.items()]
  )
  return config.build(Model)


def nbytes(tree):
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


# Parameters.


def test_components_of_t5_small_are_those_worked_out_by_hand():
  # 8 + 8 layers of width 512, 6 heads of 64, gated MLP of 1024.
  attention = 4 * 512 * 6 * 64
  assert costs.parameters(preset("t5_1_1/small")) == {
    "total": 76_961_152,
    "by_component": {
      "token_embedding": 32128 * 512,
      "encoder/attention": 8 * attention,
      "encoder/mlp": 8 * 3 * 512 * 1024,
      "encoder/norm": (8 * 2 + 1) * 512,
      "encoder/position": 32 * 6,
      "decoder/attention": 8 * attention,
      "decoder/cross_attention": 8 * attention,
      "decoder/mlp": 8 * 3 * 512 * 1024,
      "decoder/norm": (8 * 3 + 1) * 512,
      "decoder/position": 32 * 6,
      "head": 512 * 32128,
    },
  }


@pytest.mark.parametrize("build", tiny.ALL.values(), ids=tiny.ALL)
def test_parameters_are_those_of_the_model_however_its_layers_run(build):
  counted = costs.parameters(build())
  leaves = jax.tree.leaves(build().abstract())
  assert counted["total"] == sum(x.size for x in leaves)
  assert counted["total"] == sum(counted["by_component"].values())


# FLOPs.


def test_flops_of_an_encoder_decoder_are_those_worked_out_by_hand():
  # Width 20, 4 heads of 6, hidden 28, 2 + 2 layers, 37 words; 3 rows of 8
  # inputs and 7 targets: 24 encoder and 21 decoder tokens.
  counted = costs.flops(tiny.t5(), batch_size=3, lengths=LENGTHS)
  forward = {
    "encoder/attention": 184_320,  # 2 * 24 * (2 * 4 * 20 * 24)
    "encoder/attention_scores": 36_864,  # 2 * 4 * 3 * 8 * 8 * 24
    "encoder/mlp": 161_280,  # 2 * 24 * (2 * 3 * 20 * 28)
    "decoder/attention": 161_280,  # 2 * 21 * (2 * 4 * 20 * 24)
    "decoder/attention_scores": 28_224,  # 2 * 4 * 3 * 7 * 7 * 24
    "decoder/cross_attention": 172_800,  # 2 * (21 + 24) * (2 * 2 * 20 * 24)
    "decoder/cross_attention_scores": 32_256,  # 2 * 4 * 3 * 7 * 8 * 24
    "decoder/mlp": 141_120,  # 2 * 21 * (2 * 3 * 20 * 28)
    "head": 31_080,  # 2 * 21 * 20 * 37
  }
  assert counted["by_component"] == {k: 3 * v for k, v in forward.items()}
  assert counted["forward"] == 949_224
  assert counted["training"] == counted["hardware"] == 3 * 949_224
  assert counted["training_without_head"] == 3 * (949_224 - 31_080)


@pytest.mark.parametrize("size", ["8b", "62b", "540b"])
def test_palm_costs_what_its_appendix_b_says(size):
  # 6 N + 12 L (heads) H T a token; N without the norms, which multiply nothing.
  model = preset(f"palm/{size}")
  account = describe(model, 2, {"targets": 2048})
  counts = account["parameters"]
  stack = model.transformer.decoder
  attention = stack.layer.attention
  matmul_parameters = counts["total"] - counts["by_component"]["decoder/norm"]
  assert account["flops_per_token"] == 6 * matmul_parameters + (
    12 * stack.num_layers * attention.num_heads * attention.head_dim * 2048
  )
  assert account["flops_per_token"] == pytest.approx(
    6 * counts["total"], rel=0.1
  )


def test_encoder_decoder_costs_what_a_decoder_of_half_its_size_does():
  # Half of the tokens see the encoder's weights and half the decoder's.
  lengths = {"inputs": 512, "targets": 512}

  def cost_and_size(model):
    account = describe(model, 1, lengths)
    weights = {
      name: size
      for name, size in account["parameters"]["by_component"].items()
      if name.endswith(("attention", "mlp"))
    }
    of_step = sum(account["flops"]["by_component"][name] for name in weights)
    return of_step / account["tokens_per_step"], sum(weights.values())

  both = preset("t5_1_1/base")
  cost, size = cost_and_size(both)
  assert cost == 6 * size / 2
  layer = both.transformer.decoder.layer.clone(cross_attention=None)
  alone = both.transformer.clone(
    encoder=None, decoder=both.transformer.decoder.clone(layer=layer)
  )
  alone_cost, alone_size = cost_and_size(
    dataclasses.replace(both, transformer=alone)
  )
  # Cross-attention is what keeps the pair from being exact.
  assert size / alone_size == pytest.approx(2, rel=0.2)
  assert cost / alone_cost == size / alone_size / 2


def jaxprs(value):
  if isinstance(value, core.ClosedJaxpr):
    yield value.jaxpr
  elif isinstance(value, core.Jaxpr):
    yield value
  elif isinstance(value, tuple | list):
    for item in value:
      yield from jaxprs(item)


def matmul_flops(jaxpr):
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      (contracted, _), _ = eqn.params["dimension_numbers"]
      shape = eqn.invars[0].aval.shape
      if len(shape) == 2 and shape[0] == 1:
        continue  # einsum.py's sum over the batch, as a row of ones.
      summed = math.prod(shape[i] for i in contracted)
      total += 2 * math.prod(eqn.outvars[0].aval.shape) * summed
    else:
      inner = [j for v in eqn.params.values() for j in jaxprs(v)]
      times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
      total += times * sum(map(matmul_flops, inner))
  return total


def traced_flops(model, batch_size, lengths):
  """Returns the matmul FLOPs of the traced forward, and of the gradient."""
  rows = model.row_format.row_lengths(lengths)
  shapes = (
    model.abstract(),
    model.abstract_batch(batch_size, rows),
  )

  def objective(params, batch):
    return model.objective(params, batch)

  return [
    matmul_flops(jax.make_jaxpr(f)(*shapes).jaxpr)
    for f in (objective, jax.grad(objective))
  ]


@pytest.mark.parametrize(
  "build, settings",
  [
    (tiny.t5, {"remat": "full"}),
    (tiny.t5, {"remat": "dots", "scan": True}),
    (tiny.encoder, {}),
    (tiny.palm, {"remat": "full", "scan": True}),
    (tiny.palm, {"remat": "dots"}),
    (tiny.prefix_lm, {"scan": True}),
    (tiny.llama, {"remat": "full"}),
    (tiny.llama, {"num_kv_heads": 1}),
  ],
)
def test_flops_are_those_of_the_traced_program(build, settings):
  model = build(**settings)
  counted = costs.flops(model, batch_size=BATCH, lengths=LENGTHS)
  forward, gradient = traced_flops(model, BATCH, LENGTHS)
  assert counted["forward"] == forward
  assert counted["hardware"] == gradient
  assert (counted["hardware"] > counted["training"]) == ("remat" in settings)


def test_hardware_flops_include_the_padding_of_the_last_chunk():
  model = tiny.palm(loss=CrossEntropy(chunk_tokens=8))
  assert model.loss.pieces(1, 15) == (2, 8)  # 16 tokens for 15.
  counted = costs.flops(model, batch_size=1, lengths=LENGTHS)
  assert counted["hardware"] == traced_flops(model, 1, LENGTHS)[1]
  head = counted["by_component"]["head"]
  assert counted["hardware"] - counted["training"] == head // 15


# Bytes.


def test_tokens_and_lengths_follow_the_architecture():
  tokens = {
    name: describe(build())["tokens_per_step"]
    for name, build in tiny.ALL.items()
  }
  assert tokens == {
    "t5": 45, "encoder": 24, "palm": 45, "prefix_lm": 45, "llama": 45,
  }  # fmt: skip
  targets_only = describe(tiny.palm(), lengths={"targets": 7})
  assert targets_only["row_lengths"] == {"decoder": 7}


def test_missing_length_is_refused():
  with pytest.raises(ValueError, match="lack 'inputs'.*add inputs=..."):
    describe(tiny.t5(), lengths={"targets": 7})


def test_microbatches_must_divide_the_batch():
  with pytest.raises(ValueError, match=r"\(3\).*divisible.*\(2\)"):
    describe(tiny.t5(), microbatches=2)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(
  "optimizer",
  [ADAMW, Adafactor(learning_rate=1e-3, min_dim_size_to_factor=2)],
  ids=["adamw", "adafactor"],
)
@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_bytes_of_the_state_are_those_of_the_real_one(
  optimizer, scan, param_dtype
):
  model = dataclasses.replace(tiny.t5(scan=scan), param_dtype=param_dtype)
  transform = optimizer.build(model.logical_axes())
  key = jax.random.key(0)
  state = jax.eval_shape(lambda: step.init_state(model, transform, key))
  counted = describe(model, optimizer=optimizer)["bytes"]
  assert counted["parameters"] == nbytes(state.params)
  # The gradients are float32 at either.
  size = sum(x.size for x in jax.tree.leaves(state.params))
  assert counted["gradients"] == 4 * size
  assert counted["optimizer"] == nbytes(state.opt_state)


def test_cache_holds_keys_and_values_of_decoder_and_source():
  # 2 layers x (keys, values) x 3 rows x heads of 6 x tokens x 4 bytes.
  per_head_and_token = 2 * 2 * 3 * 6 * 4
  cache = {n: describe(b())["bytes"]["kv_cache"] for n, b in tiny.ALL.items()}
  assert cache["t5"] == per_head_and_token * 4 * (7 + 8)
  assert cache["llama"] == per_head_and_token * 2 * 15
  assert cache["palm"] == cache["prefix_lm"] == per_head_and_token * 15
  assert cache["encoder"] == 0


SMALL = {"WIDTH": 128, "NUM_LAYERS": 2, "VOCAB_SIZE": 1024, "SCAN": False}
T5_LENGTHS = {"inputs": 128, "targets": 64}


@pytest.mark.slow
@pytest.mark.parametrize(
  "name, macros, chunk_tokens, microbatches",
  [
    ("palm/tiny", {"HIDDEN": 512}, None, 1),
    ("palm/tiny", {"HIDDEN": 512, "SCAN": True, "REMAT": "full"}, 256, 1),
    ("palm/tiny", {"HIDDEN": 512, "DTYPE": "bfloat16"}, 1024, 2),
    ("t5_1_1/tiny", {"HIDDEN": 320}, 1024, 1),
  ],
)
def test_account_is_close_to_xla_s_own(
  name, macros, chunk_tokens, microbatches
):
  model = preset(name, **{**SMALL, **macros})
  loss = dataclasses.replace(model.loss, chunk_tokens=chunk_tokens)
  model = dataclasses.replace(model, loss=loss)
  lengths = T5_LENGTHS if "t5" in name else {"targets": 128}
  account = describe(
    model, 8, lengths, optimizer=ADAMW, microbatches=microbatches,
    platform=jax.default_backend(),
  )  # fmt: skip

  transform = ADAMW.build(model.logical_axes())
  key = jax.random.key(0)
  state = jax.eval_shape(lambda: step.init_state(model, transform, key))
  train_step = step.train_step(
    model, transform, microbatches=microbatches, dropout_key=key
  )
  batch = model.abstract_batch(8, account["row_lengths"])
  compiled = jax.jit(train_step, donate_argnums=0).lower(state, batch).compile()
  xla = compiled.memory_analysis()
  held = (
    xla.argument_size_in_bytes
    + xla.output_size_in_bytes
    - xla.alias_size_in_bytes
    + xla.temp_size_in_bytes
  )
  assert account["bytes"]["total"] == pytest.approx(held, rel=memory.TOLERANCE)
  # XLA counts the body of a loop once.
  if not macros.get("SCAN") and microbatches == 1:
    assert account["flops_per_step"] == pytest.approx(
      compiled.cost_analysis()["flops"], rel=0.04
    )
    forward = jax.jit(lambda p, b: model.objective(p, b))
    compiled = forward.lower(state.params, batch).compile()
    assert account["flops"]["forward"] == pytest.approx(
      compiled.cost_analysis()["flops"], rel=0.06
    )


def test_remat_and_chunks_save_activations():
  def activations(remat, chunk_tokens):
    loss = CrossEntropy(chunk_tokens=chunk_tokens)
    model = tiny.palm(scan=True, num_layers=12, remat=remat, loss=loss)
    return describe(model, 4)["bytes"]["activations"]

  assert activations("full", 8) < activations("dots", 8) < activations(None, 8)
  whole = describe(tiny.palm(), 4)["bytes"]["activations"]
  chunked = describe(tiny.palm(loss=CrossEntropy(chunk_tokens=8)), 4)
  # Two pieces of [4, 2, 37] float32 instead of two of [4, 15, 37].
  assert whole - chunked["bytes"]["activations"] == 2 * 4 * 13 * 37 * 4


def test_cpu_widens_half_precision_and_gains_nothing_from_unrolled_remat():
  def activations(platform, **settings):
    account = describe(tiny.palm(**settings), platform=platform)
    return account["bytes"]["activations"]

  assert activations("cpu", dtype="bfloat16") == activations("cpu")
  assert activations("gpu", dtype="bfloat16") < activations("gpu")
  assert activations("cpu", remat="full") == activations("cpu")
  assert activations("gpu", remat="full") < activations("gpu")


def test_cudnn_keeps_no_scores_and_computes_them_again():
  def with_kernel(kernel):
    stack = tiny.palm().transformer.decoder
    core = CoreAttention(kernel=kernel)
    attention = stack.layer.attention.clone(core=core)
    layer = stack.layer.clone(attention=attention)
    model = tiny.palm(dtype="bfloat16")
    return describe(tiny.replace_stacks(model, layer=layer))

  cudnn, einsum = with_kernel("cudnn"), with_kernel("einsum")
  scores = einsum["flops"]["by_component"]["decoder/attention_scores"]
  assert cudnn["flops"]["hardware"] == cudnn["flops_per_step"] + scores // 6
  # 2 layers x 3 rows x 4 heads x 15 x 15, in bfloat16.
  saved = einsum["bytes"]["activations"] - cudnn["bytes"]["activations"]
  assert saved == 2 * 3 * 4 * 15 * 15 * 2


@pytest.mark.parametrize("build", [tiny.llama, tiny.t5])
def test_with_a_fused_kernel_memory_grows_as_the_length_not_its_square(build):
  model = build(scan=True, loss=CrossEntropy(chunk_tokens=8))

  def activations(platform, length):
    return costs.device_bytes(
      model, batch_size=2, lengths={"inputs": 128, "targets": length},
      optimizer=None, microbatches=1, platform=platform, layout=None,
    )["activations"]  # fmt: skip

  assert activations("tpu", 1024) < 2.1 * activations("tpu", 512)
  assert activations("cpu", 1024) > 3 * activations("cpu", 512)


def test_account_can_be_written_as_json():
  account = describe(tiny.t5(), optimizer=ADAMW)
  assert json.loads(json.dumps(account)) == account
  assert account["flops_per_token"] * 45 == account["flops_per_step"]
  assert np.isfinite(account["flops_per_token"])
