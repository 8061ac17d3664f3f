"""Switch Transformers are those of `transformers`."""

import pytest

from tests import tiny
from tests.interop import parity

OPTIONS = {
  "vocab_size": tiny.VOCAB,
  "d_model": tiny.WIDTH,
  "d_kv": tiny.HEAD_DIM,
  "d_ff": tiny.HIDDEN,
  "num_heads": tiny.HEADS,
  "num_layers": 4,
  "num_sparse_encoder_layers": 2,
  "num_decoder_layers": 3,
  "num_sparse_decoder_layers": 1,
  "num_experts": 5,
  "expert_capacity": 99,
  "relative_attention_num_buckets": 8,
  "relative_attention_max_distance": 12,
  "router_aux_loss_coef": 0.0,
  "router_z_loss_coef": 0.0,
  "decoder_start_token_id": 0,
}


class TestRoomForAll(parity.Parity):
  architecture = "SwitchTransformersForConditionalGeneration"
  options = OPTIONS


class TestRoomForFew(parity.Logits):
  """Tokens beyond an expert's capacity pass by, in the order of the row."""

  architecture = "SwitchTransformersForConditionalGeneration"
  options = {
    **OPTIONS, "expert_capacity": 3, "num_layers": 2, "num_decoder_layers": 2,
    "num_sparse_decoder_layers": 2,
  }  # fmt: skip

  def test_some_pass_by(self, pair):
    """So that agreement on logits says something of them."""
    import torch

    chosen = []
    hooks = [
      module.register_forward_hook(lambda m, x, y: chosen.append(y))
      for name, module in pair.hf.named_modules()
      if name.endswith("mlp.router")
    ]
    batch = pair.long_batch()
    with torch.no_grad():
      pair.their_logits(batch)
    for hook in hooks:
      hook.remove()
    sent = torch.cat([kept.sum(-1) for kept, *_ in chosen], dim=1)
    assert 0.1 < sent.float().mean() < 0.9


@pytest.mark.parametrize(
  "option",
  [{"router_bias": True}, {"num_selected_experts": 2},
   {"dense_act_fn": "gated-gelu"}, {"tie_word_embeddings": False},
   {"encoder_sparse_step": 4}, {"num_layers": 5}],
)  # fmt: skip
def test_unsupported_options_are_refused(option):
  parity.refused("switch_transformers", OPTIONS, **option)
