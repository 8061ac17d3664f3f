"""GPT is that of `transformers`, whose "gelu" is the tanh form."""

import pytest

from tests import tiny
from tests.interop import parity


class TestTied(parity.WithoutPrefix, parity.Parity):
  architecture = "OpenAIGPTLMHeadModel"
  options = {
    "vocab_size": tiny.VOCAB,
    "n_embd": tiny.HEADS * tiny.HEAD_DIM,
    "n_layer": tiny.LAYERS,
    "n_head": tiny.HEADS,
    "n_positions": parity.LENGTH,
  }


@pytest.mark.parametrize("option", [{"afn": "gelu_new"}, {"n_special": 3}])
def test_options_not_supported_are_refused(option):
  parity.refused("openai-gpt", TestTied.options, **option)
