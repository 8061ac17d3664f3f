"""LLaMA is that of `transformers`, with grouped queries, tied or not."""

from tests import tiny
from tests.interop import parity


class TestGroupedQueries(parity.Parity):
  architecture = "LlamaForCausalLM"
  options = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": tiny.WIDTH,
    "intermediate_size": tiny.HIDDEN,
    "num_hidden_layers": tiny.LAYERS,
    "num_attention_heads": tiny.HEADS,
    "num_key_value_heads": 2,
    "head_dim": tiny.HEAD_DIM,
    "rms_norm_eps": 1e-5,
  }


class TestTiedMultiQuery(parity.Parity):
  architecture = "LlamaForCausalLM"
  options = {
    **TestGroupedQueries.options,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"},
  }
