"""BLOOM: LayerNorm also of the embeddings, ALiBi, biases throughout.

BigScience Workshop 2022, arXiv:2211.05100.
"""

from t5x_lite.interop.config import Config
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
from t5x_lite.nn.attention import Attention
from t5x_lite.nn.attention_rules import Causal
from t5x_lite.nn.feedforward import MLP
from t5x_lite.nn.norms import LayerNorm
from t5x_lite.nn.positions import Alibi
from t5x_lite.nn.stack import Layer, Stack
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"bloom": "BloomForCausalLM"}

TENSORS = Table(
  entries=[
    Entry("transformer.word_embeddings.weight", "token_embedding"),
    *norm("transformer.word_embeddings_layernorm", "decoder/input_norm"),
    *under("transformer.h.{i}.", "decoder/layer_{i}/", [
      *norm("input_layernorm", "attention_norm"),
      *dense("self_attention.query_key_value", QKV, TO_GROUPS),
      *dense("self_attention.dense", "attention/out", FROM_HEADS),
      *norm("post_attention_layernorm", "mlp_norm"),
      *dense("mlp.dense_h_to_4h", "mlp/wi"),
      *dense("mlp.dense_4h_to_h", "mlp/wo"),
    ]),
    *norm("transformer.ln_f", "decoder/final_norm"),
    Entry("lm_head.weight", "head", "V D -> D V"),
  ],
  copies={"lm_head.weight": "transformer.word_embeddings.weight"},
  renames=[(r"^(word_embeddings\w*|h|ln_f)\.", r"transformer.\1.")],
)  # fmt: skip


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  config.aliases(
    n_embed="hidden_size", num_hidden_layers="n_layer",
    num_attention_heads="n_head",
  )  # fmt: skip
  config.expect("apply_residual_connection_post_layernorm", False)
  # How the training code ran, and leftovers of it that nothing reads.
  config.without_effect(
    "slow_but_exact", "attention_softmax_in_fp32", "masked_softmax_fusion",
    "bias_dropout_fusion", "skip_bias_add", "skip_bias_add_qkv", "seq_length",
    "offset_alibi", "n_inner",
  )  # fmt: skip
  width, heads = config.integer("hidden_size"), config.integer("n_head")
  layer_norm = LayerNorm(epsilon=config.number("layer_norm_epsilon", 1e-5))
  dropout = config.number("hidden_dropout", 0.0)
  layer = Layer(
    attention=Attention(
      num_heads=heads,
      head_dim=config.share("hidden_size", "n_head"),
      use_bias=True,
      dropout_rate=config.number("attention_dropout", 0.0),
    ),
    mlp=MLP(hidden=4 * width, activation="gelu_tanh", use_bias=True),
    norm=layer_norm,
    dropout_rate=dropout,
  )
  return Transformer(
    width=width,
    vocab_size=config.integer("vocab_size"),
    decoder=Stack(
      layer=layer,
      num_layers=config.integer("n_layer"),
      rule=Causal(),
      position=Alibi(num_heads=heads),
      input_norm=layer_norm,
      final_norm=layer_norm,
    ),
    tie_embeddings=config.flag("tie_word_embeddings", True),
  )


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  stack = transformer.decoder
  layer = stack.layer
  return {
    "vocab_size": transformer.vocab_size,
    "hidden_size": transformer.width,
    "n_layer": stack.num_layers,
    "n_head": layer.attention.num_heads,
    "layer_norm_epsilon": stack.final_norm.epsilon,
    "attention_dropout": layer.attention.dropout_rate,
    "hidden_dropout": layer.dropout_rate,
    "tie_word_embeddings": transformer.tie_embeddings,
  }
