"""GPT-2 is that of `transformers`."""

import pytest

from tests import tiny
from tests.interop import parity


class TestTied(parity.WithoutPrefix, parity.Parity):
  architecture = "GPT2LMHeadModel"
  options = {
    "vocab_size": tiny.VOCAB,
    "n_embd": tiny.HEADS * tiny.HEAD_DIM,
    "n_inner": tiny.HIDDEN,
    "n_layer": tiny.LAYERS,
    "n_head": tiny.HEADS,
    "n_positions": parity.LENGTH,
  }


class TestUntied(parity.Logits):
  """Four times the width for n_inner, another GELU."""

  architecture = "GPT2LMHeadModel"
  options = {
    **TestTied.options,
    "n_inner": None,
    "activation_function": "gelu",
    "tie_word_embeddings": False,
  }


@pytest.mark.parametrize(
  "option",
  [
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True},
    {"add_cross_attention": True},
    {"activation_function": "quick_gelu"},
  ],
)
def test_options_not_supported_are_refused(option):
  parity.refused("gpt2", TestTied.options, **option)


def test_general_names_of_sizes_are_read():
  names = {
    "n_embd": "hidden_size", "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads", "n_positions": "max_position_embeddings",
  }  # fmt: skip
  options = {names.get(n, n): v for n, v in TestTied.options.items()}
  expected = parity.read("gpt2", TestTied.options)
  assert parity.read("gpt2", options) == expected
  parity.refused("gpt2", TestTied.options, hidden_size=1)
