"""Falcon: parallel blocks without biases, RoPE, few key heads.

7B has one key head and one norm in a block, 40B ("the new decoder
architecture") groups of heads and two norms. Almazrouei et al. 2023,
arXiv:2311.16867.
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

MODEL_TYPES = {"falcon": "FalconForCausalLM"}


def _table(attention_norm: str, mlp_norm: str) -> Table:
  return Table(
    entries=[
      Entry("transformer.word_embeddings.weight", "token_embedding"),
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
    unread=[r".*\.rotary_emb\.inv_freq"],
  )  # fmt: skip


TENSORS = _table("input_layernorm", "post_attention_layernorm")
_OF_TWO_NORMS = _table("ln_attn", "ln_mlp")


def tensors(transformer: Transformer) -> Table:
  """Returns the names, which differ where two norms stand side by side."""
  layer = transformer.decoder.layer
  two = layer.parallel and layer.parallel_norms == 2
  return _OF_TWO_NORMS if two else TENSORS


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  # `transformers` adds ALiBi once or twice, as the kernel will have it.
  config.expect("alibi", False)
  config.expect("apply_residual_connection_post_layernorm", False)
  config.aliases(n_embed="hidden_size")
  width = config.integer("hidden_size")
  heads = config.integer("num_attention_heads")
  kv_heads, parallel, norms = _kind(config, heads)
  bias = config.flag("bias", False)
  layer_norm = LayerNorm(epsilon=config.number("layer_norm_epsilon", 1e-5))
  layer = Layer(
    attention=Attention(
      num_heads=heads,
      num_kv_heads=kv_heads,
      head_dim=config.share("hidden_size", "num_attention_heads"),
      use_bias=bias,
      dropout_rate=config.number("attention_dropout", 0.0),
    ),
    mlp=MLP(
      hidden=config.integer("ffn_hidden_size", 4 * width),
      activation=config.choice("activation", ACTIVATIONS, "gelu"),
      use_bias=bias,
    ),
    norm=layer_norm,
    parallel=parallel,
    parallel_norms=norms,
    dropout_rate=config.number("hidden_dropout", 0.0),
  )
  return Transformer(
    width=width,
    vocab_size=config.integer("vocab_size"),
    decoder=Stack(
      layer=layer,
      num_layers=config.integer("num_hidden_layers"),
      rule=Causal(),
      position=rope.read(config),
      final_norm=layer_norm,
    ),
    tie_embeddings=config.flag("tie_word_embeddings", True),
  )


def _kind(config: Config, heads: int) -> tuple[int, bool, int]:
  """Reads the number of key heads, whether blocks are parallel, and how many
  norms those have."""
  new = config.flag("new_decoder_architecture", False)
  parallel = config.flag("parallel_attn", True)
  stated = config.integer("num_kv_heads", heads)
  multi_query = config.flag("multi_query", True)
  norms = config.integer("num_ln_in_parallel_attn", 2 if new else 1)
  if new:
    config.expect("parallel_attn", True)
    config.expect("num_ln_in_parallel_attn", 1, 2)
    return stated, parallel, norms
  config.expect("num_ln_in_parallel_attn", 1)
  if multi_query:
    return 1, parallel, norms
  config.expect("num_kv_heads", heads)
  return heads, parallel, norms


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  stack = transformer.decoder
  layer, attention = stack.layer, stack.layer.attention
  kv_heads = attention.num_kv_heads or attention.num_heads
  new = kv_heads not in (1, attention.num_heads) or (
    layer.parallel and layer.parallel_norms == 2
  )
  return {
    "vocab_size": transformer.vocab_size,
    "hidden_size": transformer.width,
    "ffn_hidden_size": layer.mlp.hidden,
    "num_hidden_layers": stack.num_layers,
    "num_attention_heads": attention.num_heads,
    "num_kv_heads": kv_heads,
    "multi_query": kv_heads == 1,
    "new_decoder_architecture": new,
    "parallel_attn": layer.parallel,
    "num_ln_in_parallel_attn": layer.parallel_norms,
    "bias": attention.use_bias,
    "activation": NAMES[layer.mlp.activation],
    "attention_dropout": attention.dropout_rate,
    "hidden_dropout": layer.dropout_rate,
    "layer_norm_epsilon": stack.final_norm.epsilon,
    "alibi": False,
    "tie_word_embeddings": transformer.tie_embeddings,
    **rope.write(stack.position),
  }
