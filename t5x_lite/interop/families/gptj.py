"""GPT-J: a parallel block with one norm, RoPE in part of each head by
neighbours, a head with a bias.

Wang and Komatsuzaki 2021, GPT-J-6B.
"""

from t5x_lite.interop.config import Config
from t5x_lite.interop.families import gpt2
from t5x_lite.interop.options import Options
from t5x_lite.interop.tables import (
  FROM_HEADS,
  TO_HEADS,
  Entry,
  Table,
  dense,
  norm,
  under,
)
from t5x_lite.nn.positions import Rope
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"gptj": "GPTJForCausalLM"}

TENSORS = Table(
  entries=[
    Entry("transformer.wte.weight", "token_embedding"),
    *under("transformer.h.{i}.", "decoder/layer_{i}/", [
      *norm("ln_1", "attention_norm"),
      *dense("attn.q_proj", "attention/query", TO_HEADS),
      *dense("attn.k_proj", "attention/key", TO_HEADS),
      *dense("attn.v_proj", "attention/value", TO_HEADS),
      *dense("attn.out_proj", "attention/out", FROM_HEADS),
      *dense("mlp.fc_in", "mlp/wi"),
      *dense("mlp.fc_out", "mlp/wo"),
    ]),
    *norm("transformer.ln_f", "decoder/final_norm"),
    Entry("lm_head.weight", "head", "V D -> D V"),
    Entry("lm_head.bias", "head_bias"),
  ],
  copies={"lm_head.weight": "transformer.wte.weight"},
  # Masks and frequencies.
  unread=[r".*\.attn\.(bias|masked_bias|embed_positions)"],
)  # fmt: skip

OPTIONS = Options(
  rows=gpt2.rows(*gpt2.INNER, dropout=0.0, tied=False),
  fixed={
    "mlp.use_bias": True, "layer.parallel": True, "lm_head.use_bias": True,
    "position.interleaved": True,
  },
  aliases=gpt2.ALIASES,
  always={"rotary": True, "scale_attn_weights": True},
  position=Rope,
)  # fmt: skip


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  settings = OPTIONS.settings(config)
  fraction = config.integer("rotary_dim", 64) / settings["attention.head_dim"]
  return OPTIONS.transformer(settings | {"position.fraction": fraction})


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  stack = transformer.decoder
  head_dim = stack.period[0].attention.head_dim
  rotated = round(stack.position.fraction * head_dim)
  return {**OPTIONS.write(transformer), "rotary_dim": rotated}
