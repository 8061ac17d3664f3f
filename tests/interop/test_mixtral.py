"""Mixtral is that of `transformers`."""

import pytest

from tests.interop import parity


class TestTopTwo(parity.Parity):
  architecture = "MixtralForCausalLM"
  options = {
    **parity.LLAMA_SIZES,
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
