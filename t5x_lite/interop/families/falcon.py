"""Falcon: parallel blocks without biases, RoPE, few key heads.

7B has one key head and one norm in a block, 40B ("the new decoder
architecture") groups of heads and two norms. Almazrouei et al. 2023,
arXiv:2311.16867.
"""

from t5x_lite.interop.config import Config
from t5x_lite.interop.options import Option, Options, four_widths
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

MODEL_TYPES = {"falcon": "FalconForCausalLM"}


def table(attention_norm: str, mlp_norm: str, **others) -> Table:
  """Returns the names where a layer's norms have these."""
  return Table(
    entries=[
      Entry("transformer.word_embeddings.weight", "token_embedding"),
      *norm("transformer.word_embeddings_layernorm", "decoder/input_norm"),
      *under("transformer.h.{i}.", "decoder/layer_{i}/", [
        *norm(attention_norm, "attention_norm"),
        *dense("self_attention.query_key_value", QKV, TO_GROUPS),
        *dense("self_attention.dense", "attention/out", FROM_HEADS),
        *norm(mlp_norm, "mlp_norm"),
        *dense("mlp.dense_h_to_4h", "mlp/wi"),
        *dense("mlp.dense_4h_to_h", "mlp/wo"),
      ]),
      *norm("transformer.ln_f", "decoder/final_norm"),
      Entry("lm_head.weight", "head", "V D -> D V"),
    ],
    copies={"lm_head.weight": "transformer.word_embeddings.weight"},
    **others,
  )  # fmt: skip


NORMS = "input_layernorm", "post_attention_layernorm"

_UNREAD = [r".*\.rotary_emb\.inv_freq"]
TENSORS = table(*NORMS, unread=_UNREAD)
_OF_TWO_NORMS = table("ln_attn", "ln_mlp", unread=_UNREAD)


def tensors(transformer: Transformer) -> Table:
  """Returns the names, which differ where two norms stand side by side."""
  layer = transformer.decoder.layer
  two = layer.parallel and layer.parallel_norms == 2
  return _OF_TWO_NORMS if two else TENSORS


OPTIONS = Options(
  rows=[
    Option("vocab_size", "vocab_size"),
    Option("hidden_size", "width"),
    Option("ffn_hidden_size", "mlp.hidden", four_widths),
    Option("num_hidden_layers", "stack.num_layers"),
    Option("num_attention_heads", "attention.num_heads"),
    Option("bias", ("attention.projections.use_bias", "mlp.use_bias"), False),
    Option("activation", "mlp.activation", "gelu"),
    Option("attention_dropout", "attention.core.dropout_rate", 0.0),
    Option("hidden_dropout", "layer.dropout_rate", 0.0),
    Option("layer_norm_epsilon", "norm.epsilon", 1e-5),
    Option("tie_word_embeddings", "lm_head.tied", True),
  ],
  aliases={"n_embed": "hidden_size"},
  always={
    # `transformers` adds ALiBi once or twice, as the kernel will have it.
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
  },
  rope=Rotary(),
)


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  settings = OPTIONS.settings(config)
  return OPTIONS.transformer(settings | _block(config, settings))


def _block(config: Config, settings: dict) -> dict:
  """Reads the number of key heads, whether blocks are parallel, and how many
  norms those have."""
  heads = settings["attention.num_heads"]
  new = config.flag("new_decoder_architecture", False)
  parallel = config.flag("parallel_attn", True)
  kv_heads = config.integer("num_kv_heads", heads)
  multi_query = config.flag("multi_query", True)
  norms = config.integer("num_ln_in_parallel_attn", 2 if new else 1)
  if new:
    config.expect("parallel_attn", True)
    config.expect("num_ln_in_parallel_attn", 1, 2)
  else:
    config.expect("num_ln_in_parallel_attn", 1)
    if not multi_query:
      config.expect("num_kv_heads", heads)
    kv_heads = 1 if multi_query else heads
  return {
    "attention.num_kv_heads": kv_heads,
    "layer.parallel": parallel,
    "layer.parallel_norms": norms,
  }


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  layer = transformer.decoder.period[0]
  kv_heads = layer.attention.kv_heads
  new = kv_heads not in (1, layer.attention.num_heads) or (
    layer.parallel and layer.parallel_norms == 2
  )
  return {
    **OPTIONS.write(transformer),
    "num_kv_heads": kv_heads,
    "multi_query": kv_heads == 1,
    "new_decoder_architecture": new,
    "parallel_attn": layer.parallel,
    "num_ln_in_parallel_attn": layer.parallel_norms,
    "alibi": False,
  }
