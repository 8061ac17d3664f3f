"""LLaMA is that of `transformers`, with grouped queries, tied or not."""

from tests.interop import parity


class TestGroupedQueries(parity.Parity):
  architecture = "LlamaForCausalLM"
  options = {
    **parity.LLAMA_SIZES,
    "rms_norm_eps": 1e-5,
  }


class TestTiedMultiQueryWithBiases(parity.Logits):
  architecture = "LlamaForCausalLM"
  options = {
    **TestGroupedQueries.options,
    "num_key_value_heads": 1,
    "hidden_act": "gelu",
    "attention_bias": True,
    "mlp_bias": True,
    "tie_word_embeddings": True,
    "rope_parameters": {
      "rope_theta": 500.0, "rope_type": "llama3", "factor": 8.0,
      "low_freq_factor": 1.0, "high_freq_factor": 4.0,
      "original_max_position_embeddings": 24,
    },
  }  # fmt: skip
