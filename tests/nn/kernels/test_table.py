"""Which kernel serves what, and what is said where one does not."""

import dataclasses

import jax
import pytest
from jax.sharding import AbstractMesh

from t5x_lite.nn.attention_rules import (
  And,
  Causal,
  Full,
  PrefixCausal,
  Sinks,
  Window,
  pattern,
)
from t5x_lite.nn.kernels import partition, table
from t5x_lite.nn.kernels.table import KERNELS, Case, choose
from tests import guides, tiny
from tests.nn.test_against_numpy_yoco import yoco

CASE = Case(
  query_length=512, key_length=512, head_dim=64, dtype="bfloat16",
  pattern=pattern(Causal()),
)  # fmt: skip


@pytest.mark.parametrize(
  "changes, on_tpu, on_gpu, on_cpu",
  [
    ({}, "splash", "cudnn", "blocked"),
    ({"pattern": pattern(Full()), "key_length": 1024}, "splash", "cudnn",
     "blocked"),
    ({"pattern": pattern(Window(64))}, "splash", "cudnn", "blocked"),
    ({"pattern": pattern(PrefixCausal())}, "splash", "flash", "blocked"),
    ({"pattern": None}, "einsum", "einsum", "einsum"),
    ({"soft_cap": True}, "splash", "flash", "blocked"),
    ({"sink": True}, "splash", "flash", "blocked"),
    ({"dropout": True}, "einsum", "einsum", "einsum"),
    ({"cached": True}, "einsum", "einsum", "einsum"),
    ({"dtype": "float32"}, "splash", "flash", "blocked"),
    ({"head_dim": 68}, "splash", "flash", "blocked"),
    ({"bias": "array"}, "einsum", "cudnn", "blocked"),
    ({"bias": "buckets", "pattern": pattern(Full())}, "flash", "cudnn",
     "blocked"),
    ({"bias": "slopes", "sink": True}, "flash", "flash", "blocked"),
    ({"key_length": 511}, "splash", "flash", "blocked"),
    ({"key_length": 255}, "splash", "flash", "einsum"),
    ({"query_length": 64}, "flash", "flash", "einsum"),
    ({"query_length": 63}, "einsum", "einsum", "einsum"),
  ],
)  # fmt: skip
def test_auto_takes_the_fused_kernel_that_serves(
  changes, on_tpu, on_gpu, on_cpu
):
  case = dataclasses.replace(CASE, **changes)
  assert choose("auto", case, "cpu") == on_cpu
  assert choose("auto", case, "tpu") == on_tpu
  assert choose("auto", case, "gpu") == on_gpu


@pytest.mark.parametrize(
  "kernel, platform, changes, what",
  [
    ("splash", "gpu", {}, "the platform gpu"),
    ("cudnn", "tpu", {}, "the platform tpu"),
    ("cudnn", "gpu", {"dtype": "float32"}, "dtype float32"),
    ("cudnn", "gpu", {"head_dim": 68}, "head_dim 68"),
    ("cudnn", "gpu", {"pattern": pattern(PrefixCausal())},
     "the attention rule prefix"),
    ("splash", "tpu", {"pattern": None}, "the attention rule without a pat"),
    ("splash", "tpu", {"bias": "array"}, "the bias array"),
    ("flash", "gpu", {"bias": "array"}, "the bias array"),
    ("splash", "tpu", {"dropout": True}, "dropout"),
    ("splash", "tpu", {"cached": True}, "a cache of keys and values"),
    ("cudnn", "gpu", {"query_length": 511}, "odd lengths (511, 512)"),
  ],
)  # fmt: skip
def test_a_kernel_that_cannot_serve_is_refused_with_those_that_can(
  kernel, platform, changes, what
):
  case = dataclasses.replace(CASE, **changes)
  with pytest.raises(ValueError) as refusal:
    choose(kernel, case, platform)
  message = str(refusal.value)
  assert f"CoreAttention.kernel {kernel!r} does not take {what}" in message
  assert "\n" not in message
  assert "einsum" in message and f", {kernel}" not in message


def test_a_cpu_interprets_a_named_kernel_of_tpus():
  assert choose("splash", CASE, "cpu") == "splash"


ABSENT = AbstractMesh(
  (1,), ("data",),
  abstract_device=jax.sharding.AbstractDevice("TPU v5", 1, "tpu"),
)  # fmt: skip


def test_the_devices_of_the_mesh_are_what_is_compiled_for():
  assert partition.platform() == jax.default_backend()
  with jax.sharding.use_abstract_mesh(ABSENT):
    assert partition.platform() == "tpu"


@pytest.mark.parametrize(
  "model", [tiny.llama(), tiny.prefix_lm(), yoco()],
  ids=["llama", "prefix_lm", "yoco"],
)  # fmt: skip
def test_training_takes_a_fused_kernel_in_all_layers(model, monkeypatch):
  chosen = []

  def recorded(*arguments):
    chosen.append(choose(*arguments))
    return chosen[-1]

  monkeypatch.setattr(table, "choose", recorded)
  shapes = model.abstract(), model.abstract_batch(2, {"decoder": 128})
  with jax.sharding.use_abstract_mesh(ABSENT):
    jax.eval_shape(model.objective, *shapes)
  assert set(chosen) == {"splash"}


def test_rules_made_of_others_have_no_pattern():
  for rule in (And((Causal(), Window(3))), Sinks(2)):
    assert pattern(rule) is None


def test_einsum_serves_every_case_on_every_platform():
  row = KERNELS["einsum"]
  worst = dataclasses.replace(
    CASE, pattern=None, bias="array", soft_cap=True, sink=True, dropout=True,
    cached=True, dtype="float16", head_dim=3, query_length=1,
  )  # fmt: skip
  for platform in ("cpu", "gpu", "tpu"):
    assert row.refusal(worst, platform) is None


def test_the_guide_has_the_table():
  def shown(taken):
    return "all" if taken is None else ", ".join(taken) or "none"

  rows = [
    (
      name, shown(row.platforms), shown(row.patterns), shown(row.dtypes),
      "all" if row.head_dims is None else
      f"{row.head_dims[0]}, {row.head_dims[1]}, ... {row.head_dims[-1]}",
      "array" if row.reads_bias else shown(row.biases),
      *("yes" if has else "no" for has in (
        row.soft_cap, row.sink, row.dropout, row.cached
      )),
    )
    for name, row in KERNELS.items()
  ]  # fmt: skip
  table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
  assert f"|\n{table}\n\n" in (guides.DOCS / "kernels.md").read_text()


def test_a_named_kernel_does_not_decode_and_auto_does():
  def logits(kernel):
    model = tiny.palm(num_layers=1)
    layer = model.transformer.decoder.layer
    core = dataclasses.replace(layer.attention.core, kernel=kernel)
    attention = layer.attention.clone(core=core)
    model = tiny.replace_stacks(model, layer=layer.clone(attention=attention))
    batch = model.row_format.prompts(tiny.batch(model))
    params = tiny.random_params(model)
    return jax.eval_shape(
      lambda p, b: model.prefill(p, b, max_new_tokens=2)[0], params, batch
    )

  assert logits("auto").shape == (3, tiny.VOCAB)
  with pytest.raises(ValueError, match="does not take a cache of keys and val"):
    logits("splash")
