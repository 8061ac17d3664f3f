"""BLOOM is that of `transformers`."""

from tests import tiny
from tests.interop import parity


class TestHeadsNoPowerOfTwo(parity.WithoutPrefix, parity.Parity):
  architecture = "BloomForCausalLM"
  options = {
    "vocab_size": tiny.VOCAB, "hidden_size": 24, "n_layer": 2, "n_head": 6,
  }  # fmt: skip


def test_options_not_supported_are_refused():
  options = TestHeadsNoPowerOfTwo.options
  name = "apply_residual_connection_post_layernorm"
  parity.refused("bloom", options, **{name: True})
  parity.refused("bloom", options, n_embed=25)
