"""GPT-NeoX and Pythia: a parallel block with two norms, RoPE in part of each
head.

Black et al. 2022, arXiv:2204.06745; Biderman et al. 2023, arXiv:2304.01373.
"""

from t5x_lite.interop.config import Config
from t5x_lite.interop.options import Option, Options
from t5x_lite.interop.rope import Rotary
from t5x_lite.interop.tables import (
  FROM_HEADS,
  QKV,
  TO_GROUPS,
  Entry,
  Table,
  dense,
  norm,
  under,
)
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"gpt_neox": "GPTNeoXForCausalLM"}

TENSORS = Table(
  entries=[
    Entry("gpt_neox.embed_in.weight", "token_embedding"),
    *under("gpt_neox.layers.{i}.", "decoder/layer_{i}/", [
      *norm("input_layernorm", "attention_norm"),
      *dense("attention.query_key_value", QKV, TO_GROUPS),
      *dense("attention.dense", "attention/out", FROM_HEADS),
      *norm("post_attention_layernorm", "mlp_norm"),
      *dense("mlp.dense_h_to_4h", "mlp/wi"),
      *dense("mlp.dense_4h_to_h", "mlp/wo"),
    ]),
    *norm("gpt_neox.final_layer_norm", "decoder/final_norm"),
    Entry("embed_out.weight", "head", "V D -> D V"),
  ],
  copies={"embed_out.weight": "gpt_neox.embed_in.weight"},
  # Masks and frequencies.
  unread=[
    r".*\.attention\.(bias|masked_bias)", r".*\.rotary_emb\.inv_freq",
  ],
  renames=[(r"^lm_head\.", "embed_out.")],
)  # fmt: skip

OPTIONS = Options(
  rows=[
    Option("vocab_size", "vocab_size"),
    Option("hidden_size", "width"),
    Option("intermediate_size", "mlp.hidden"),
    Option("num_hidden_layers", "stack.num_layers"),
    Option("num_attention_heads", "attention.num_heads"),
    Option("attention_bias", "attention.projections.use_bias", True),
    Option("attention_dropout", "attention.core.dropout_rate", 0.0),
    Option("hidden_act", "mlp.activation", "gelu"),
    Option(
      "hidden_dropout", ("layer.dropout_rate", "stack.dropout_rate"), 0.0
    ),
    Option("layer_norm_eps", "norm.epsilon", 1e-5),
    Option("use_parallel_residual", "layer.parallel", True),
    Option("tie_word_embeddings", "lm_head.tied", False),
  ],
  fixed={"mlp.use_bias": True, "layer.parallel_norms": 2},
  aliases={
    "rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"
  },
  rope=Rotary(fraction=0.25),
)  # fmt: skip


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  config.expect("is_decoder", False, True)  # It is one either way.
  return OPTIONS.read(config)


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  options = OPTIONS.write(transformer)
  old_names = {alias: options[name] for alias, name in OPTIONS.aliases.items()}
  return options | old_names
