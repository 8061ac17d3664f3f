"""BART: an encoder-decoder with post-norm and learned positions.

Lewis et al. 2019, arXiv:1910.13461.
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

MODEL_TYPES = {"bart": "BartForConditionalGeneration"}

_EMBEDDING = "model.shared.weight"
_OFFSET = 2  # Rows of the position table that no position has.


def _attention(theirs, ours):
  return [
    *dense(f"{theirs}.q_proj", f"{ours}/query", TO_HEADS),
    *dense(f"{theirs}.k_proj", f"{ours}/key", TO_HEADS),
    *dense(f"{theirs}.v_proj", f"{ours}/value", TO_HEADS),
    *dense(f"{theirs}.out_proj", f"{ours}/out", FROM_HEADS),
    *norm(f"{theirs}_layer_norm", f"{ours}_norm"),
  ]


def _side(side):
  return under(f"model.{side}.", f"{side}/", [
    Entry("embed_positions.weight", "position/position_embedding"),
    *norm("layernorm_embedding", "input_norm"),
    *under("layers.{i}.", "layer_{i}/", [
      *_attention("self_attn", "attention"),
      *_attention("encoder_attn", "cross_attention"),
      *dense("fc1", "mlp/wi"),
      *dense("fc2", "mlp/wo"),
      *norm("final_layer_norm", "mlp_norm"),
    ]),
  ])  # fmt: skip


TENSORS = Table(
  entries=[
    Entry(_EMBEDDING, "token_embedding"),
    *_side("encoder"),
    *_side("decoder"),
    Entry("final_logits_bias", "head_bias", "1 V -> V"),
  ],
  copies={
    "model.encoder.embed_tokens.weight": _EMBEDDING,
    "model.decoder.embed_tokens.weight": _EMBEDDING,
    "lm_head.weight": _EMBEDDING,
  },
  unread=[r"model\.(en|de)coder\.version"],
)  # fmt: skip


def _options(side: str) -> Options:
  """Returns the options of one side, and those of both."""
  return Options(
    rows=[
      Option("vocab_size", "vocab_size"),
      Option("d_model", "width"),
      Option(f"{side}_layers", "stack.num_layers"),
      Option(f"{side}_attention_heads", "attention.num_heads"),
      Option(f"{side}_ffn_dim", "mlp.hidden"),
      Option("max_position_embeddings", "position.max_length", 1024),
      Option("activation_function", "mlp.activation", "gelu"),
      Option("activation_dropout", "mlp.dropout_rate", 0.0),
      Option("attention_dropout", "attention.core.dropout_rate", 0.0),
      Option("dropout", ("stack.dropout_rate", "layer.dropout_rate"), 0.1),
      Option("scale_embedding", "embedding.scale", False),
    ],
    fixed={
      "attention.projections.use_bias": True, "mlp.use_bias": True,
      "layer.norm_placement": "post", "position.offset": _OFFSET,
    },
    aliases={"num_hidden_layers": "encoder_layers"},
    # What early files say, and what no other file may say otherwise.
    always={
      "is_encoder_decoder": True,
      "is_decoder": False,
      "tie_word_embeddings": True,
      "normalize_before": False,
      "normalize_embedding": True,
      "add_final_layer_norm": False,
      "add_bias_logits": False,
      "static_position_embeddings": False,
      "extra_pos_embeddings": _OFFSET,
    },
    without_effect=["force_bos_token_to_be_generated"],
    side=side,
    cross_attention=side == "decoder",
    stack_norms=("input_norm",),
  )  # fmt: skip


_ENCODER, _DECODER = _options("encoder"), _options("decoder")


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  config.architecture(MODEL_TYPES["bart"])
  settings = _ENCODER.settings(config)
  decoder = _DECODER.stack(_DECODER.settings(config))
  return _ENCODER.transformer(
    settings
    | {"decoder": decoder, "lm_head.tied": True, "lm_head.use_bias": True}
  )


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  return {
    **_DECODER.write(transformer),
    **_ENCODER.write(transformer),
    "is_encoder_decoder": True,
    "tie_word_embeddings": True,
  }
