"""T5 1.0, v1.1 and mT5 are those of `transformers`."""

from tests import tiny
from tests.interop import parity

SIZES = {
  "vocab_size": tiny.VOCAB,
  "d_model": tiny.WIDTH,
  "d_kv": tiny.HEAD_DIM,
  "d_ff": tiny.HIDDEN,
  "num_heads": tiny.HEADS,
  "num_layers": 3,
  "num_decoder_layers": tiny.LAYERS,
  "relative_attention_num_buckets": 8,
  "relative_attention_max_distance": 12,
  "decoder_start_token_id": 0,
}


def give_head(hf):
  """Gives theirs a head of its own, which it makes only where a file has it."""
  import torch

  head = torch.randn(tiny.VOCAB, tiny.WIDTH) * tiny.WIDTH**-0.5
  hf.lm_head.weight = torch.nn.Parameter(head)


class TestOriginal(parity.Parity):
  """ReLU, a tied head, scaled logits."""

  architecture = "T5ForConditionalGeneration"
  options = SIZES


class TestVersion11(parity.Parity):
  """Gated GELU and a head of its own: Flan-T5 and ByT5 too."""

  architecture = "T5ForConditionalGeneration"
  options = {
    **SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False
  }  # fmt: skip

  @classmethod
  def prepare(cls, hf):
    give_head(hf)


class TestMT5(parity.Parity):
  """mT5's logits are never scaled; with UL2's activation."""

  architecture = "MT5ForConditionalGeneration"
  options = {**SIZES, "feed_forward_proj": "gated-silu"}

  @classmethod
  def prepare(cls, hf):
    give_head(hf)
