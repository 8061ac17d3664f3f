"""Settings that mean nothing are refused in one line that shows them."""

import jax
import pytest

from t5x_lite.nn.attention import Attention, CoreAttention
from t5x_lite.nn.attention_rules import Causal, Full
from t5x_lite.nn.embedding import Embedding
from t5x_lite.nn.feedforward import MLP, Gated
from t5x_lite.nn.norms import RMSNorm
from t5x_lite.nn.positions import Learned, Rope, T5Bias
from t5x_lite.nn.stack import Layer, Stack
from t5x_lite.nn.transformer import Transformer
from t5x_lite.nn.yoco import DecoderDecoder
from tests import tiny

ATTENTION, NORM = Attention(num_heads=2, head_dim=4), RMSNorm()


def layer(attention=ATTENTION, **settings):
  return Layer(attention=attention, mlp=MLP(hidden=8), norm=NORM, **settings)


def stack(layer_settings=None, **settings):
  settings = {
    "num_layers": 1, "rule": Causal(), "position": Rope(), **settings,
  }  # fmt: skip
  return Stack(layer=layer(**layer_settings or {}), **settings)


CROSS = {"cross_attention": ATTENTION}


@pytest.mark.parametrize(
  "build, message",
  [
    (lambda: Attention(num_heads=10, num_kv_heads=4, head_dim=8),
     "num_heads (10) must be divisible by num_kv_heads (4)"),
    (lambda: Attention(num_heads=4, num_kv_heads=0, head_dim=8),
     "num_kv_heads (0) must be at least 1"),
    (lambda: Attention(num_heads=0, head_dim=8),
     "num_heads (0) must be at least 1"),
    (lambda: Attention(num_heads=4, head_dim=0),
     "head_dim (0) must be at least 1"),
    (lambda: CoreAttention(kernel="fused"),
     "unknown CoreAttention.kernel 'fused': use one of auto, "),
    (lambda: CoreAttention(kernel="cudnn", dropout_rate=0.1),
     "dropout_rate (0.1) needs kernel='auto' or one of einsum: the cudnn "),
    (lambda: CoreAttention(dropout_rate=1.0),
     "CoreAttention.dropout_rate (1.0) must be in [0, 1)"),
    (lambda: CoreAttention(scale=0.5, scale_at_init=True),
     "scale (0.5) and scale_at_init=True are two ways to scale the logits"),
    (lambda: Embedding(width=0), "Embedding.width (0) must be at least 1"),
    (lambda: MLP(hidden=8, activation="swish"),
     "unknown MLP.activation 'swish': use one of relu, gelu, gelu_tanh, silu"),
    (lambda: Gated(hidden=0), "hidden (0) must be at least 1"),
    (lambda: MLP(hidden=8, dropout_rate=-0.1),
     "dropout_rate (-0.1) must be in [0, 1)"),
    (lambda: layer(parallel=True, **CROSS),
     "parallel=True has no place for cross_attention"),
    (lambda: layer(dropout_rate=10), "dropout_rate (10) must be in [0, 1)"),
    (lambda: stack(num_layers=0), "num_layers (0) must be at least 1"),
    (lambda: stack(remat="all"),
     "unknown Stack.remat 'all': use one of None, auto, full"),
    (lambda: stack(dropout_rate=1.5), "dropout_rate (1.5) must be in [0, 1)"),
    (lambda: T5Bias(num_heads=2, bidirectional=True, num_buckets=3),
     "num_buckets (3) must be at least 4"),
    (lambda: T5Bias(num_heads=2, bidirectional=False, max_distance=16),
     "max_distance (16) must be greater than the 16 buckets of one distance"),
    (lambda: stack(position=T5Bias(num_heads=3, bidirectional=False)),
     "T5Bias.num_heads (3) must equal Attention.num_heads (2)"),
    (lambda: stack({"attention": Attention(num_heads=2, head_dim=5)}),
     "Rope rotates pairs: head_dim (5) must be even"),
    (lambda: DecoderDecoder(
      self_decoder=stack(), cross_decoder=stack({"position": Rope()}),
      norm=NORM), "one cache of keys, rotated once: set Stack.position"),
    (lambda: Transformer(width=8), "needs an encoder, a decoder or both"),
    (lambda: Transformer(width=8, encoder=stack(rule=Full()), decoder=stack()),
     "every layer of the decoder needs cross_attention"),
    (lambda: Transformer(width=8, decoder=stack(CROSS)),
     "the decoder has cross_attention but there is no encoder"),
    (lambda: Transformer(width=8, encoder=stack(CROSS)),
     "the encoder has cross_attention"),
    (lambda: Transformer(width=8, decoder=stack(), dtype="bf16"),
     "unknown Transformer.dtype 'bf16': use one of float32, bfloat16, float16"),
    (lambda: Transformer(width=8, vocab_size=0, decoder=stack()),
     "vocab_size (0) must be at least 1"),
  ],
)  # fmt: skip
def test_refusals_are_one_line_that_names_the_numbers(build, message):
  with pytest.raises(ValueError) as refusal:
    build()
  assert message in str(refusal.value)
  assert "\n" not in str(refusal.value)


def test_rows_longer_than_the_learned_positions_are_refused():
  model = tiny.llama(position=Learned(max_length=14))
  batch = tiny.batch(model)
  with pytest.raises(
    ValueError, match=r"15 tokens .* Learned.max_length \(14\)"
  ):
    model.logits(tiny.random_params(model), batch)


def test_one_instance_in_two_places_has_parameters_for_each():
  attention, norm = Attention(num_heads=2, head_dim=4), RMSNorm()
  shared = {
    "num_layers": 1,
    "position": T5Bias(num_heads=2, bidirectional=True),
    "final_norm": norm,
  }
  parts = {"attention": attention, "mlp": MLP(hidden=8), "norm": norm}
  model = tiny.Model(
    transformer=Transformer(
      width=6,
      vocab_size=7,
      encoder=Stack(layer=Layer(**parts), rule=Full(), **shared),
      decoder=Stack(
        layer=Layer(**parts, cross_attention=attention), rule=Causal(), **shared
      ),
    )
  )
  shapes = jax.tree.map(lambda p: p.shape, model.abstract())
  encoder, decoder = shapes["encoder"], shapes["decoder"]
  layer = decoder["layer_0"]
  assert layer.pop("cross_attention") == layer["attention"]
  assert layer.pop("cross_attention_norm") == layer["attention_norm"]
  assert encoder == decoder
  assert encoder["position"]["relative_bias"] == (32, 2)
