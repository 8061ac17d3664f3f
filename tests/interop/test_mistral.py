"""Mistral is that of `transformers`, with a window and without."""

import pytest

from t5x_lite.nn.attention_rules import Causal, Window
from tests.interop import parity


class TestWindow(parity.Parity):
  architecture = "MistralForCausalLM"
  options = {**parity.LLAMA_SIZES, "sliding_window": 5}

  def test_the_window_is_read(self, pair):
    assert pair.ours.model.transformer.decoder.rule == Window(5)


@pytest.mark.parametrize(
  ("option", "rule"),
  [({}, Window(4096)), ({"sliding_window": None}, Causal())],
)
def test_no_window_is_stated_as_null(option, rule):
  assert (
    parity.read("mistral", parity.LLAMA_SIZES, **option).decoder.rule == rule
  )


@pytest.mark.parametrize(
  "option", [{"layer_types": ["full_attention"] * 2}, {"attention_bias": True}]
)
def test_options_not_supported_are_refused(option):
  parity.refused("mistral", parity.LLAMA_SIZES, **option)
