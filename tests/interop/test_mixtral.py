"""Mixtral is that of `transformers`."""

import pytest

from tests import tiny
from tests.interop import parity


class TestTopTwo(parity.Parity):
  architecture = "MixtralForCausalLM"
  options = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": tiny.WIDTH,
    "intermediate_size": tiny.HIDDEN,
    "num_hidden_layers": tiny.LAYERS,
    "num_attention_heads": tiny.HEADS,
    "num_key_value_heads": 2,
    "head_dim": tiny.HEAD_DIM,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
  }


class TestTopThreeInAWindow(parity.Logits):
  architecture = "MixtralForCausalLM"
  options = {
    **TestTopTwo.options,
    "num_experts_per_tok": 3,
    "sliding_window": 5,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
  }


@pytest.mark.parametrize(
  "option", [{"router_jitter_noise": 0.1}, {"num_experts": 3}]
)
def test_options_not_supported_are_refused(option):
  parity.refused("mixtral", TestTopTwo.options, **option)
