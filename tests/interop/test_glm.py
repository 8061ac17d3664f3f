"""GLM-4 is that of `transformers`."""

from tests.interop import parity


class TestGroupedQueries(parity.Parity):
  architecture = "GlmForCausalLM"
  options = {
    **parity.LLAMA_SIZES,
    "head_dim": 8,
    "pad_token_id": None,
  }


class TestTiedWithoutBiases(parity.Logits):
  """A quarter of each head turns, more slowly than trained."""

  architecture = "GlmForCausalLM"
  options = {
    **TestGroupedQueries.options,
    "attention_bias": False,
    "tie_word_embeddings": True,
    "rope_parameters": {
      "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0,
      "original_max_position_embeddings": 24, "partial_rotary_factor": 0.25,
    },
  }  # fmt: skip


def test_options_not_supported_are_refused():
  parity.refused("glm", TestGroupedQueries.options, mlp_bias=True)
