"""Qwen2 is that of `transformers`, with windows in some layers."""

import pytest

from t5x_lite.nn.attention_rules import Causal, Window
from tests import tiny
from tests.interop import parity

SIZES = {
  "vocab_size": tiny.VOCAB,
  "hidden_size": tiny.HEADS * tiny.HEAD_DIM,
  "intermediate_size": tiny.HIDDEN,
  "num_hidden_layers": 3,
  "num_attention_heads": tiny.HEADS,
  "num_key_value_heads": 2,
}
WINDOWS = {"use_sliding_window": True, "sliding_window": 5}


class TestWindowAboveFullLayers(parity.Parity):
  architecture = "Qwen2ForCausalLM"
  options = {**SIZES, **WINDOWS, "max_window_layers": 1}


def rules(**options):
  stack = parity.read("qwen2", SIZES, **options).decoder
  return [layer.rule or stack.rule for layer in stack.layers]


full, window = Causal(), Window(5)


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    ({}, [full] * 3),
    ({**WINDOWS, "use_sliding_window": False}, [full] * 3),
    ({**WINDOWS, "sliding_window": None, "max_window_layers": 0}, [full] * 3),
    (WINDOWS, [full] * 3),
    ({**WINDOWS, "max_window_layers": 0}, [window] * 3),
    ({**WINDOWS, "max_window_layers": 2}, [full, full, window]),
    (
      {**WINDOWS, "layer_types": ["sliding_attention", "full_attention"] * 2,
       "num_hidden_layers": 4},
      [window, full] * 2,
    ),
  ],
)  # fmt: skip
def test_windows_of_layers(options, expected):
  assert rules(**options) == expected


def test_layers_that_differ_are_a_period():
  kinds = ["sliding_attention", "full_attention"] * 2
  stack = parity.read(
    "qwen2", SIZES, **WINDOWS, layer_types=kinds, num_hidden_layers=4
  ).decoder
  assert len(stack.period) == 2


def test_layer_types_that_contradict_are_refused():
  parity.refused("qwen2", SIZES, layer_types=["sliding_attention"] * 3)
  parity.refused("qwen2", SIZES, layer_types=["chunked_attention"] * 3)
  parity.refused("qwen2", SIZES, layer_types=["full_attention"] * 2)
