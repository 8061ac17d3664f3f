"""GPT-J is that of `transformers`."""

import pytest

from tests import tiny
from tests.interop import parity


class TestUntied(parity.Parity):
  architecture = "GPTJForCausalLM"
  options = {
    "vocab_size": tiny.VOCAB,
    "n_embd": 3 * 10,
    "n_inner": tiny.HIDDEN,
    "n_layer": tiny.LAYERS,
    "n_head": 3,
    "n_positions": parity.LENGTH,
    "rotary_dim": 4,
  }


@pytest.mark.parametrize(
  "option",
  [{"rotary": False}, {"scale_attn_weights": False}, {"rotary_dim": 0}],
)
def test_options_not_supported_are_refused(option):
  parity.refused("gptj", TestUntied.options, **option)
