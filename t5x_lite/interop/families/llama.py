"""LLaMA: RMSNorm, SwiGLU, RoPE, grouped queries.

Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288.
"""

from t5x_lite.interop import rope
from t5x_lite.interop.config import Config
from t5x_lite.interop.tables import (
  FROM_HEADS,
  TO_HEADS,
  Entry,
  Table,
  dense,
  norm,
  under,
)
from t5x_lite.nn.attention import Attention
from t5x_lite.nn.feedforward import Gated
from t5x_lite.nn.norms import RMSNorm
from t5x_lite.nn.stack import Layer, Stack
from t5x_lite.nn.transformer import Transformer
from t5x_lite.nn.visibility import Causal

MODEL_TYPES = {"llama": "LlamaForCausalLM"}

TENSORS = Table(
  entries=[
    Entry("model.embed_tokens.weight", "token_embedding"),
    *under("model.layers.{i}.", "decoder/layer_{i}/", [
      *norm("input_layernorm", "attention_norm"),
      *dense("self_attn.q_proj", "attention/query", TO_HEADS),
      *dense("self_attn.k_proj", "attention/key", TO_HEADS),
      *dense("self_attn.v_proj", "attention/value", TO_HEADS),
      *dense("self_attn.o_proj", "attention/out", FROM_HEADS),
      *norm("post_attention_layernorm", "mlp_norm"),
      *dense("mlp.gate_proj", "mlp/wi_gate"),
      *dense("mlp.up_proj", "mlp/wi_linear"),
      *dense("mlp.down_proj", "mlp/wo"),
    ]),
    *norm("model.norm", "decoder/final_norm"),
    Entry("lm_head.weight", "head", "V D -> D V"),
  ],
  copies={"lm_head.weight": "model.embed_tokens.weight"},
  unread=[r".*\.rotary_emb\.inv_freq"],
)  # fmt: skip


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  config.expect("attention_bias", False)
  config.expect("mlp_bias", False)
  heads = config.integer("num_attention_heads")
  head_dim = config.integer("head_dim", None)
  rms_norm = RMSNorm(epsilon=config.number("rms_norm_eps", 1e-6))
  layer = Layer(
    attention=Attention(
      num_heads=heads,
      num_kv_heads=config.integer("num_key_value_heads", heads),
      head_dim=head_dim or config.share("hidden_size", "num_attention_heads"),
      dropout_rate=config.number("attention_dropout", 0.0),
    ),
    mlp=Gated(
      hidden=config.integer("intermediate_size"),
      activation=config.choice("hidden_act", {"silu": "silu"}, "silu"),
    ),
    norm=rms_norm,
  )
  return Transformer(
    width=config.integer("hidden_size"),
    vocab_size=config.integer("vocab_size"),
    decoder=Stack(
      layer=layer,
      num_layers=config.integer("num_hidden_layers"),
      rule=Causal(),
      position=rope.read(config),
      final_norm=rms_norm,
    ),
    tie_embeddings=config.flag("tie_word_embeddings", False),
  )


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  stack = transformer.decoder
  attention = stack.layer.attention
  return {
    "vocab_size": transformer.vocab_size,
    "hidden_size": transformer.width,
    "intermediate_size": stack.layer.mlp.hidden,
    "num_hidden_layers": stack.num_layers,
    "num_attention_heads": attention.num_heads,
    "num_key_value_heads": attention.num_kv_heads or attention.num_heads,
    "head_dim": attention.head_dim,
    "attention_dropout": attention.dropout_rate,
    "hidden_act": "silu",
    "rms_norm_eps": stack.final_norm.epsilon,
    "tie_word_embeddings": transformer.tie_embeddings,
    **rope.write(stack.position),
  }
