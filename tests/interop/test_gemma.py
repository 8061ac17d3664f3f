"""Gemma is that of `transformers`."""

import pytest

from tests.interop import parity


class TestTiedMultiQuery(parity.Parity):
  architecture = "GemmaForCausalLM"
  options = {
    **parity.LLAMA_SIZES,
    "num_key_value_heads": 1,
    "pad_token_id": None,  # Its embedding gets no gradient in torch.
  }


class TestUntiedWithBiases(parity.Logits):
  architecture = "GemmaForCausalLM"
  options = {
    **TestTiedMultiQuery.options,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "attention_bias": True,
    "tie_word_embeddings": False,
  }


@pytest.mark.parametrize(
  ("options", "activation"),
  [
    ({}, "gelu_tanh"),
    ({"hidden_act": "gelu"}, "gelu_tanh"),
    (
      {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"},
      "gelu_tanh",
    ),
    ({"hidden_act": "gelu", "hidden_activation": None}, "gelu_tanh"),
    ({"hidden_act": "relu"}, "relu"),
  ],
)
def test_gelu_means_its_tanh_form(options, activation):
  transformer = parity.read("gemma", TestTiedMultiQuery.options, **options)
  assert transformer.decoder.layer.mlp.activation == activation


@pytest.mark.parametrize(
  "option",
  [
    {"use_bidirectional_attention": True},
    {"hidden_activation": "relu"},
    {"final_logit_softcapping": 30.0},
  ],
)
def test_options_not_supported_are_refused(option):
  parity.refused("gemma", TestTiedMultiQuery.options, **option)
