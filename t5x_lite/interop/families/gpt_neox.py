"""GPT-NeoX and Pythia: a parallel block with two norms, RoPE in part of each
head.

Black et al. 2022, arXiv:2204.06745; Biderman et al. 2023, arXiv:2304.01373.
"""

from t5x_lite.interop import rope
from t5x_lite.interop.config import ACTIVATIONS, NAMES, Config
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
from t5x_lite.nn.stack import Layer, Stack
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


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  config.aliases(
    rotary_emb_base="rope_theta", rotary_pct="partial_rotary_factor"
  )
  config.expect("is_decoder", False, True)  # It is one either way.
  layer_norm = LayerNorm(epsilon=config.number("layer_norm_eps", 1e-5))
  dropout = config.number("hidden_dropout", 0.0)
  layer = Layer(
    attention=Attention(
      num_heads=config.integer("num_attention_heads"),
      head_dim=config.share("hidden_size", "num_attention_heads"),
      use_bias=config.flag("attention_bias", True),
      dropout_rate=config.number("attention_dropout", 0.0),
    ),
    mlp=MLP(
      hidden=config.integer("intermediate_size"),
      activation=config.choice("hidden_act", ACTIVATIONS, "gelu"),
      use_bias=True,
    ),
    norm=layer_norm,
    parallel=config.flag("use_parallel_residual", True),
    parallel_norms=2,
    dropout_rate=dropout,
  )
  return Transformer(
    width=config.integer("hidden_size"),
    vocab_size=config.integer("vocab_size"),
    decoder=Stack(
      layer=layer,
      num_layers=config.integer("num_hidden_layers"),
      rule=Causal(),
      position=rope.read(config, fraction=0.25),
      final_norm=layer_norm,
      dropout_rate=dropout,
    ),
    tie_embeddings=config.flag("tie_word_embeddings", False),
  )


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  stack = transformer.decoder
  layer = stack.layer
  return {
    "vocab_size": transformer.vocab_size,
    "hidden_size": transformer.width,
    "intermediate_size": layer.mlp.hidden,
    "num_hidden_layers": stack.num_layers,
    "num_attention_heads": layer.attention.num_heads,
    "attention_bias": layer.attention.use_bias,
    "attention_dropout": layer.attention.dropout_rate,
    "hidden_act": NAMES[layer.mlp.activation],
    "hidden_dropout": layer.dropout_rate,
    "layer_norm_eps": stack.final_norm.epsilon,
    "use_parallel_residual": layer.parallel,
    "rotary_emb_base": stack.position.base,
    "rotary_pct": stack.position.fraction,
    "tie_word_embeddings": transformer.tie_embeddings,
    **rope.write(stack.position, partial=True),
  }
