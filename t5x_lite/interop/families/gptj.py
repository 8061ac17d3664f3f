"""GPT-J: a parallel block with one norm, RoPE in part of each head by
neighbours, a head with a bias.

Wang and Komatsuzaki 2021, GPT-J-6B.
"""

from t5x_lite.interop.config import Config
from t5x_lite.interop.options import Option, Options, four_widths
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
  rows=[
    Option("vocab_size", "vocab_size"),
    Option("n_embd", "width"),
    Option("n_inner", "mlp.hidden", four_widths),
    Option("n_layer", "stack.num_layers"),
    Option("n_head", "attention.num_heads"),
    Option("activation_function", "mlp.activation", "gelu_new"),
    Option("layer_norm_epsilon", "norm.epsilon", 1e-5),
    Option("attn_pdrop", "attention.dropout_rate", 0.0),
    Option("resid_pdrop", "layer.dropout_rate", 0.0),
    Option("embd_pdrop", "stack.dropout_rate", 0.0),
    Option("tie_word_embeddings", "tie_embeddings", False),
  ],
  fixed={
    "mlp.use_bias": True, "layer.parallel": True, "head_bias": True,
    "position.interleaved": True,
  },
  aliases={
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
  },
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
