"""GPT: LayerNorm after each branch, learned positions, biases throughout.

Radford et al. 2018, Improving Language Understanding by Generative
Pre-Training.
"""

from t5x_lite.interop.families import gpt2
from t5x_lite.interop.options import Option, Options, four_widths
from t5x_lite.interop.tables import (
  CONV1D,
  CONV1D_FROM_HEADS,
  CONV1D_TO_HEADS,
  QKV,
  Entry,
  Table,
  dense,
  norm,
  under,
)

MODEL_TYPES = {"openai-gpt": "OpenAIGPTLMHeadModel"}

TENSORS = Table(
  entries=[
    Entry("transformer.tokens_embed.weight", "token_embedding"),
    Entry(
      "transformer.positions_embed.weight",
      "decoder/position/position_embedding",
    ),
    *under("transformer.h.{i}.", "decoder/layer_{i}/", [
      *dense("attn.c_attn", QKV, CONV1D_TO_HEADS),
      *dense("attn.c_proj", "attention/out", CONV1D_FROM_HEADS),
      *norm("ln_1", "attention_norm"),
      *dense("mlp.c_fc", "mlp/wi", CONV1D),
      *dense("mlp.c_proj", "mlp/wo", CONV1D),
      *norm("ln_2", "mlp_norm"),
    ]),
    Entry("lm_head.weight", "head", "V D -> D V"),
  ],
  copies={"lm_head.weight": "transformer.tokens_embed.weight"},
  unread=[r".*\.attn\.bias", r"transformer\.position_ids"],  # A mask.
  renames=[
    (r"^(tokens_embed|positions_embed|position_ids|h)\b", r"transformer.\1")
  ],
)  # fmt: skip

# Its "gelu" is the tanh form.
_ACTIVATIONS = {
  "gelu": "gelu_tanh", "relu": "relu", "swish": "silu", "silu": "silu"
}  # fmt: skip

OPTIONS = Options(
  rows=gpt2.rows(
    Option("n_positions", "position.max_length", 512),
    Option("afn", "mlp.activation", "gelu", names=_ACTIVATIONS),
  ),
  fixed={
    "attention.projections.use_bias": True, "mlp.use_bias": True,
    "mlp.hidden": four_widths, "layer.norm_placement": "post",
  },
  aliases=gpt2.ALIASES | {"max_position_embeddings": "n_positions"},
  always={"n_special": 0},
  without_effect=["predict_special_tokens"],
  stack_norms=(),
)  # fmt: skip

read, write = OPTIONS.read, OPTIONS.write
