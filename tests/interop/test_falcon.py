"""Falcon is that of `transformers`: 7B's kind, 40B's, and those between."""

import pytest

from tests import tiny
from tests.interop import parity

SIZES = {
  "vocab_size": tiny.VOCAB,
  "hidden_size": tiny.HEADS * tiny.HEAD_DIM,
  "ffn_hidden_size": tiny.HIDDEN,
  "num_hidden_layers": tiny.LAYERS,
  "num_attention_heads": tiny.HEADS,
}
NEW = {**SIZES, "new_decoder_architecture": True, "num_kv_heads": 2}


class TestMultiQuery(parity.Logits):
  """7B."""

  architecture = "FalconForCausalLM"
  options = SIZES


class TestGroupsAndTwoNorms(parity.Parity):
  """40B, with biases, which it has not."""

  architecture = "FalconForCausalLM"
  options = {**NEW, "bias": True, "tie_word_embeddings": False}


class TestGroupsAndOneNorm(parity.Logits):
  """11B; four times the width for ffn_hidden_size."""

  architecture = "FalconForCausalLM"
  options = {
    **NEW,
    "ffn_hidden_size": None,
    "activation": "relu",
    "num_ln_in_parallel_attn": 1,
  }


class TestSerialMultiHead(parity.Logits):
  architecture = "FalconForCausalLM"
  options = {**SIZES, "multi_query": False, "parallel_attn": False}


@pytest.mark.parametrize(
  ("options", "option"),
  [
    (SIZES, {"alibi": True}),
    (SIZES, {"num_ln_in_parallel_attn": 2}),
    (SIZES, {"apply_residual_connection_post_layernorm": True}),
    ({**SIZES, "multi_query": False}, {"num_kv_heads": 2}),
    (NEW, {"parallel_attn": False}),
    (NEW, {"num_ln_in_parallel_attn": 3}),
  ],
)
def test_options_not_supported_are_refused(options, option):
  parity.refused("falcon", options, **option)


def test_key_heads_of_the_old_kind_are_as_multi_query_says():
  """Its config.json states num_kv_heads too, which nothing reads."""
  attention = parity.read(
    "falcon", SIZES, num_kv_heads=4
  ).decoder.layer.attention
  assert attention.num_kv_heads == 1
