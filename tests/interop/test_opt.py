"""OPT is that of `transformers`, 350m's kind too."""

import pytest

from tests import tiny
from tests.interop import parity


class TestPreNorm(parity.WithoutPrefix, parity.Logits):
  architecture = "OPTForCausalLM"
  options = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": tiny.HEADS * tiny.HEAD_DIM,
    "ffn_dim": tiny.HIDDEN,
    "num_hidden_layers": tiny.LAYERS,
    "num_attention_heads": tiny.HEADS,
    "max_position_embeddings": parity.LENGTH,
    "pad_token_id": None,  # Its embedding gets no gradient in torch.
  }


class TestPostNormAndProjections(parity.Parity):
  architecture = "OPTForCausalLM"
  options = {
    **TestPreNorm.options,
    "do_layer_norm_before": False,
    "word_embed_proj_dim": tiny.WIDTH,
  }


class TestUntiedWithoutBiasesAndFinalNorm(parity.Logits):
  architecture = "OPTForCausalLM"
  options = {
    **TestPreNorm.options,
    "enable_bias": False,
    "_remove_final_layer_norm": True,
    "activation_function": "gelu",
    "tie_word_embeddings": False,
  }


@pytest.mark.parametrize(
  "option",
  [{"layer_norm_elementwise_affine": False}, {"activation_function": "mish"}],
)
def test_options_not_supported_are_refused(option):
  parity.refused("opt", TestPreNorm.options, **option)


def test_projections_need_a_tied_head():
  options = TestPostNormAndProjections.options
  parity.refused("opt", options, tie_word_embeddings=False)
