"""Layers with position encodings of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.decoding import generate
from t5x_lite.nn.attention_rules import Causal, TokenInfo, Window
from t5x_lite.nn.positions import (
  Alibi,
  Learned,
  NoPosition,
  Rope,
  T5Bias,
)
from t5x_lite.nn.stack import Period
from tests import tiny

LAYER = tiny.llama().transformer.decoder.layer
X = np.random.default_rng(0).normal(size=(2, 9, tiny.WIDTH)).astype(np.float32)
INDEX = jnp.arange(9)[None]
TOKENS = TokenInfo(INDEX, INDEX, INDEX * 0 + 1, INDEX < 0)
BIAS = T5Bias(num_heads=tiny.HEADS, bidirectional=False, num_buckets=8)


def stack(*layers, position, **settings):
  decoder = tiny.llama().transformer.decoder
  return decoder.clone(
    layer=Period(layers), num_layers=len(layers), position=position,
    final_norm=None, **settings,
  )  # fmt: skip


def init(module):
  params = module.init(jax.random.key(0), X, TOKENS)["params"]
  return jax.tree.map(
    lambda leaf: leaf.unbox(), params, is_leaf=lambda x: hasattr(x, "unbox")
  )


def run(module, params):
  return tiny.jit(module.apply)({"params": params}, X, TOKENS)[0]


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(
  "positions",
  [
    (Rope(base=100.0), NoPosition()),
    (Rope(base=100.0), Rope(base=1e6, fraction=0.67)),
    (NoPosition(), Alibi(num_heads=tiny.HEADS)),
  ],
)
def test_each_layer_computes_under_its_own_position(positions, scan):
  layers = [LAYER.clone(position=position) for position in positions]
  mixed = stack(
    *layers, position=NoPosition(), scan=scan, remat="full" if scan else None
  )
  params = init(mixed)
  expected = X
  for i, position in enumerate(positions):
    alone = stack(LAYER, position=position)
    layer = params["layers"] if scan else params
    layer = layer[f"layer_{i}"]
    if scan:
      layer = jax.tree.map(lambda leaf: leaf[0], layer)
    expected = alone.apply({"params": {"layer_0": layer}}, expected, TOKENS)[0]
  np.testing.assert_allclose(run(mixed, params), expected, atol=1e-5)


def test_layers_without_a_position_take_the_stacks():
  mixed = stack(
    LAYER, LAYER.clone(position=NoPosition()), position=Rope(base=100.0)
  )
  listed = stack(
    LAYER.clone(position=Rope(base=100.0)), LAYER, position=NoPosition()
  )
  params = init(mixed)
  np.testing.assert_array_equal(run(mixed, params), run(listed, params))


def test_biases_of_layers_have_parameters_of_their_own():
  layers = [LAYER.clone(position=BIAS), LAYER, LAYER.clone(position=BIAS)]
  params = init(stack(*layers, position=BIAS))
  tables = [params["position"]] + [
    params[f"layer_{i}"].pop("position", None) for i in range(3)
  ]
  assert tables[2] is None
  tables = [t["relative_bias"] for t in tables if t is not None]
  assert [t.shape for t in tables] == [(8, tiny.HEADS)] * 3
  assert not np.allclose(tables[1], tables[2])
  scanned = init(stack(*layers, position=BIAS, scan=True, remat="full"))
  table = scanned["layers"]["layer_2"]["position"]["relative_bias"]
  assert table.shape == (1, 8, tiny.HEADS)


def test_embeddings_take_the_stacks_position_alone():
  with pytest.raises(ValueError) as refusal:
    LAYER.clone(position=Learned(max_length=9))
  assert "Layer.position (Learned) is added to the embeddings" in str(
    refusal.value
  )
  learned = Learned(max_length=9)
  params = init(stack(LAYER.clone(position=Rope()), position=learned))
  assert params["position"]["position_embedding"].shape == (9, tiny.WIDTH)


def test_heads_are_checked_against_the_position_of_their_layer():
  alibi = Alibi(num_heads=3)
  with pytest.raises(ValueError, match=r"Alibi.num_heads \(3\) must equal"):
    stack(LAYER.clone(position=alibi), position=NoPosition())
  stack(LAYER.clone(position=NoPosition()), position=alibi)


def test_cached_decoding_under_positions_and_rules_of_layers():
  # Gemma 3: windowed layers and global ones, each with its own base.
  local = LAYER.clone(position=Rope(base=100.0), rule=Window(3))
  layers = Period((local, LAYER.clone(position=BIAS)))
  model = tiny.replace_stacks(tiny.llama(), layer=layers)
  params = model.init(jax.random.key(0))
  batch = tiny.batch(model)
  inside = batch["decoder_causal_attention"]
  prompts = {k: v * inside for k, v in batch.items() if "target" not in k}
  out = generate(model, params, prompts, max_new_tokens=4)
  size, row = int(inside[0].sum()), np.asarray(out.tokens[0])
  text = np.concatenate([batch["decoder_input_tokens"][0, :size], row])[None]
  forced = {
    "decoder_input_tokens": text,
    "decoder_segment_ids": np.ones_like(text),
    "decoder_positions": np.arange(text.shape[1])[None],
    "decoder_causal_attention": np.zeros_like(text),
  }
  logits = tiny.jit(model.logits)(params, forced)
  np.testing.assert_array_equal(logits[0, size - 1 : -1].argmax(-1), row)
  assert model.transformer.decoder.rule == Causal()
