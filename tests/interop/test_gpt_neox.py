"""GPT-NeoX is that of `transformers`."""

import pytest

from tests import tiny
from tests.interop import parity


class TestParallel(parity.Parity):
  architecture = "GPTNeoXForCausalLM"
  options = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 3 * 10,
    "intermediate_size": tiny.HIDDEN,
    "num_hidden_layers": tiny.LAYERS,
    "num_attention_heads": 3,
    "rope_parameters": {
      "rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.4,
    },
  }  # fmt: skip


class TestSerial(parity.Logits):
  """Without biases in attention, with a tied head and scaled frequencies."""

  architecture = "GPTNeoXForCausalLM"
  options = {
    **TestParallel.options,
    "use_parallel_residual": False,
    "attention_bias": False,
    "hidden_act": "gelu_fast",
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "linear", "factor": 3.0},
  }


def test_older_names_of_the_rotary_options_are_read():
  options = dict(TestParallel.options)
  new = parity.read("gpt_neox", options)
  del options["rope_parameters"]
  assert parity.read("gpt_neox", options, rotary_pct=0.4).decoder != new.decoder
  older = {"rotary_pct": 0.4, "rotary_emb_base": 300}
  assert parity.read("gpt_neox", options, **older) == new
  both = {**older, "rope_theta": 300, "partial_rotary_factor": 0.4}
  assert parity.read("gpt_neox", options, **both) == new


@pytest.mark.parametrize("option", [{"head_dim": 4}, {"hidden_act": "mish"}])
def test_options_not_supported_are_refused(option):
  parity.refused("gpt_neox", TestParallel.options, **option)
