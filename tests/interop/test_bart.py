"""BART is that of `transformers`."""

import pytest

from tests import tiny
from tests.interop import parity

OPTIONS = {
  "vocab_size": tiny.VOCAB,
  "d_model": tiny.WIDTH,
  "max_position_embeddings": 51,
  "encoder_layers": 3,
  "encoder_attention_heads": tiny.HEADS,
  "encoder_ffn_dim": tiny.HIDDEN,
  "decoder_layers": tiny.LAYERS,
  "decoder_attention_heads": 2,
  "decoder_ffn_dim": tiny.HIDDEN + 1,
  # Of a padding id they keep no gradient, though a target may have it.
  "pad_token_id": None,
}


def let_bias_learn(hf):
  """Makes a parameter of the head's bias, which theirs holds as a buffer."""
  import torch

  bias = hf.final_logits_bias
  del hf.final_logits_bias
  hf.final_logits_bias = torch.nn.Parameter(bias)


class TestBart(parity.Parity):
  architecture = "BartForConditionalGeneration"
  options = OPTIONS

  @classmethod
  def prepare(cls, hf):
    let_bias_learn(hf)


class TestScaledEmbeddings(parity.Logits):
  architecture = "BartForConditionalGeneration"
  options = {
    **OPTIONS, "scale_embedding": True, "activation_function": "relu",
  }  # fmt: skip

  @classmethod
  def prepare(cls, hf):
    let_bias_learn(hf)


@pytest.mark.parametrize(
  "option",
  [{"normalize_before": True}, {"static_position_embeddings": True},
   {"tie_word_embeddings": False}, {"decoder_attention_heads": 3},
   {"num_hidden_layers": 4}],
)  # fmt: skip
def test_unsupported_options_are_refused(option):
  parity.refused("bart", OPTIONS, **option)
