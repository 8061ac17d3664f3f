"""OPT: LayerNorm before each branch, or after it (350m, whose embedding is
narrower too); learned positions.

Zhang et al. 2022, arXiv:2205.01068.
"""

from t5x_lite.interop.config import Config
from t5x_lite.interop.options import Option, Options
from t5x_lite.interop.tables import (
  FROM_HEADS,
  TO_HEADS,
  Entry,
  Table,
  dense,
  norm,
  under,
)
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

OPTIONS = Options(
  rows=[
    Option("vocab_size", "vocab_size"),
    Option("hidden_size", "width"),
    Option("ffn_dim", "mlp.hidden"),
    Option("num_hidden_layers", "stack.num_layers"),
    Option("num_attention_heads", "attention.num_heads"),
    Option("max_position_embeddings", "position.max_length", 2048),
    Option(
      "enable_bias", ("attention.projections.use_bias", "mlp.use_bias"), True
    ),
    Option(
      "do_layer_norm_before", "layer.norm_placement", True,
      names={True: "pre", False: "post"},
    ),
    Option("activation_function", "mlp.activation", "relu"),
    Option("attention_dropout", "attention.core.dropout_rate", 0.0),
    Option("dropout", "layer.dropout_rate", 0.1),
    Option("tie_word_embeddings", "lm_head.tied", True),
  ],
  fixed={"position.offset": 2},
  always={"layer_norm_elementwise_affine": True},
)  # fmt: skip


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  settings = OPTIONS.settings(config)
  bare = config.flag("_remove_final_layer_norm", False)
  if bare or settings["layer.norm_placement"] == "post":
    settings["stack.final_norm"] = None
  width = settings["width"]
  embedding_width = config.integer("word_embed_proj_dim", width)
  if embedding_width != width:
    if not settings["lm_head.tied"]:
      raise ValueError(
        f"word_embed_proj_dim ({embedding_width}) other than hidden_size"
        f" ({width}) needs tie_word_embeddings: true"
      )
    settings["embedding.width"] = embedding_width
  return OPTIONS.transformer(settings)


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  stack = transformer.decoder
  pre = stack.period[0].norm_placement == "pre"
  return {
    **OPTIONS.write(transformer),
    "word_embed_proj_dim": transformer.embedding.width or transformer.width,
    "_remove_final_layer_norm": pre and stack.final_norm is None,
  }
