"""OPT: LayerNorm before each branch, or after it (350m, whose embedding is
narrower too); learned positions.

Zhang et al. 2022, arXiv:2205.01068.
"""

from t5x_lite.interop.config import ACTIVATIONS, NAMES, Config
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
from t5x_lite.nn.attention_rules import Causal
from t5x_lite.nn.feedforward import MLP
from t5x_lite.nn.norms import LayerNorm
from t5x_lite.nn.positions import Learned
from t5x_lite.nn.stack import Layer, Stack
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"opt": "OPTForCausalLM"}

_EMBEDDING = "model.decoder.embed_tokens.weight"

TENSORS = Table(
  entries=[
    Entry(_EMBEDDING, "token_embedding"),
    *dense("model.decoder.project_in", "decoder_projection"),
    Entry(
      "model.decoder.embed_positions.weight",
      "decoder/position/position_embedding",
    ),
    *under("model.decoder.layers.{i}.", "decoder/layer_{i}/", [
      *norm("self_attn_layer_norm", "attention_norm"),
      *dense("self_attn.q_proj", "attention/query", TO_HEADS),
      *dense("self_attn.k_proj", "attention/key", TO_HEADS),
      *dense("self_attn.v_proj", "attention/value", TO_HEADS),
      *dense("self_attn.out_proj", "attention/out", FROM_HEADS),
      *norm("final_layer_norm", "mlp_norm"),
      *dense("fc1", "mlp/wi"),
      *dense("fc2", "mlp/wo"),
    ]),
    *norm("model.decoder.final_layer_norm", "decoder/final_norm"),
    *dense("model.decoder.project_out", "head_projection"),
    Entry("lm_head.weight", "head", "V D -> D V"),
  ],
  copies={"lm_head.weight": _EMBEDDING},
  renames=[(r"^decoder\.", "model.decoder.")],
)  # fmt: skip


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  config.expect("layer_norm_elementwise_affine", True)
  bias = config.flag("enable_bias", True)
  pre = config.flag("do_layer_norm_before", True)
  bare = config.flag("_remove_final_layer_norm", False)
  width = config.integer("hidden_size")
  embedding_width = config.integer("word_embed_proj_dim", width)
  tied = config.flag("tie_word_embeddings", True)
  if embedding_width != width and not tied:
    raise ValueError(
      f"word_embed_proj_dim ({embedding_width}) other than hidden_size"
      f" ({width}) needs tie_word_embeddings: true"
    )
  layer = Layer(
    attention=Attention(
      num_heads=config.integer("num_attention_heads"),
      head_dim=config.share("hidden_size", "num_attention_heads"),
      use_bias=bias,
      dropout_rate=config.number("attention_dropout", 0.0),
    ),
    mlp=MLP(
      hidden=config.integer("ffn_dim"),
      activation=config.choice("activation_function", ACTIVATIONS, "relu"),
      use_bias=bias,
    ),
    norm=LayerNorm(),
    norm_placement="pre" if pre else "post",
    dropout_rate=config.number("dropout", 0.1),
  )
  max_length = config.integer("max_position_embeddings", 2048)
  return Transformer(
    width=width,
    vocab_size=config.integer("vocab_size"),
    decoder=Stack(
      layer=layer,
      num_layers=config.integer("num_hidden_layers"),
      rule=Causal(),
      position=Learned(max_length=max_length, offset=2),
      final_norm=LayerNorm() if pre and not bare else None,
    ),
    embedding_width=embedding_width if embedding_width != width else None,
    tie_embeddings=tied,
  )


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  stack = transformer.decoder
  layer = stack.layer
  pre = layer.norm_placement == "pre"
  return {
    "vocab_size": transformer.vocab_size,
    "hidden_size": transformer.width,
    "word_embed_proj_dim": transformer.embedding_width or transformer.width,
    "ffn_dim": layer.mlp.hidden,
    "num_hidden_layers": stack.num_layers,
    "num_attention_heads": layer.attention.num_heads,
    "max_position_embeddings": stack.position.max_length,
    "enable_bias": layer.attention.use_bias,
    "do_layer_norm_before": pre,
    "_remove_final_layer_norm": pre and stack.final_norm is None,
    "activation_function": NAMES[layer.mlp.activation],
    "attention_dropout": layer.attention.dropout_rate,
    "dropout": layer.dropout_rate,
    "tie_word_embeddings": transformer.tie_embeddings,
  }
