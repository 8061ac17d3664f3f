"""BART: an encoder-decoder with post-norm and learned positions.

Lewis et al. 2019, arXiv:1910.13461.
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
from t5x_lite.nn.attention_rules import Causal, Full
from t5x_lite.nn.feedforward import MLP
from t5x_lite.nn.norms import LayerNorm
from t5x_lite.nn.positions import Learned
from t5x_lite.nn.stack import Layer, Stack
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

# What early files say, and what no other file may say otherwise.
_ALWAYS = {
  "is_encoder_decoder": True,
  "is_decoder": False,
  "tie_word_embeddings": True,
  "normalize_before": False,
  "normalize_embedding": True,
  "add_final_layer_norm": False,
  "add_bias_logits": False,
  "static_position_embeddings": False,
  "extra_pos_embeddings": _OFFSET,
}


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  config.architecture(MODEL_TYPES["bart"])
  config.aliases(num_hidden_layers="encoder_layers")
  config.without_effect("force_bos_token_to_be_generated")
  for name, value in _ALWAYS.items():
    config.expect(name, value)
  return Transformer(
    width=config.integer("d_model"),
    vocab_size=config.integer("vocab_size"),
    encoder=_stack(config, "encoder"),
    decoder=_stack(config, "decoder"),
    scale_embeddings=config.flag("scale_embedding", False),
    tie_embeddings=True,
    head_bias=True,
  )


def _stack(config, side) -> Stack:
  dropout = config.number("dropout", 0.1)
  attention = Attention(
    num_heads=config.integer(f"{side}_attention_heads"),
    head_dim=config.share("d_model", f"{side}_attention_heads"),
    use_bias=True,
    dropout_rate=config.number("attention_dropout", 0.0),
  )
  mlp = MLP(
    hidden=config.integer(f"{side}_ffn_dim"),
    activation=config.choice("activation_function", ACTIVATIONS, "gelu"),
    use_bias=True,
    dropout_rate=config.number("activation_dropout", 0.0),
  )
  layer = Layer(
    attention=attention,
    cross_attention=attention if side == "decoder" else None,
    mlp=mlp,
    norm=LayerNorm(),
    norm_placement="post",
    dropout_rate=dropout,
  )
  return Stack(
    layer=layer,
    num_layers=config.integer(f"{side}_layers"),
    rule=Full() if side == "encoder" else Causal(),
    position=Learned(
      max_length=config.integer("max_position_embeddings", 1024),
      offset=_OFFSET,
    ),
    input_norm=LayerNorm(),
    dropout_rate=dropout,
  )


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  stack = transformer.encoder
  attention, mlp = stack.layer.attention, stack.layer.mlp
  sides = {}
  for side in ("encoder", "decoder"):
    one = getattr(transformer, side)
    sides |= {
      f"{side}_layers": one.num_layers,
      f"{side}_attention_heads": one.layer.attention.num_heads,
      f"{side}_ffn_dim": one.layer.mlp.hidden,
    }
  return {
    "vocab_size": transformer.vocab_size,
    "d_model": transformer.width,
    "max_position_embeddings": stack.position.max_length,
    "activation_function": NAMES[mlp.activation],
    "activation_dropout": mlp.dropout_rate,
    "attention_dropout": attention.dropout_rate,
    "dropout": stack.dropout_rate,
    "scale_embedding": transformer.scale_embeddings,
    "is_encoder_decoder": True,
    "tie_word_embeddings": True,
    **sides,
  }
