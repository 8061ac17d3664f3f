"""T5 and its kin: 1.0, v1.1, Flan-T5, UL2, ByT5 ("t5") and mT5 ("mt5").

Raffel et al. 2020, arXiv:1910.10683; Xue et al. 2021, arXiv:2010.11934 and
arXiv:2105.13626; Tay et al. 2022, arXiv:2205.05131.
"""

from collections.abc import Iterable, Sequence

import flax.linen as nn

from t5x_lite.interop.config import ACTIVATIONS, Config
from t5x_lite.interop.tables import (
  FROM_HEADS,
  TO_HEADS,
  Entry,
  Table,
  dense,
  norm,
  under,
)
from t5x_lite.nn.attention import Attention, CoreAttention
from t5x_lite.nn.attention_rules import Causal, Full
from t5x_lite.nn.feedforward import MLP, Gated
from t5x_lite.nn.heads import LMHead
from t5x_lite.nn.norms import RMSNorm
from t5x_lite.nn.positions import T5Bias
from t5x_lite.nn.stack import Layer, Period, Stack
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {
  "t5": "T5ForConditionalGeneration",
  "mt5": "MT5ForConditionalGeneration",
}

HEAD, EMBEDDING = "lm_head.weight", "shared.weight"

_FEED_FORWARDS = {
  **{name: (MLP, name) for name in ACTIVATIONS},
  **{f"gated-{name}": (Gated, name) for name in ACTIVATIONS},
  "gated-gelu": (Gated, "gelu_new"),  # As v1.1 wrote it before GELU had forms.
}


def _attention(theirs, ours):
  return [
    *dense(f"{theirs}.q", f"{ours}/query", TO_HEADS),
    *dense(f"{theirs}.k", f"{ours}/key", TO_HEADS),
    *dense(f"{theirs}.v", f"{ours}/value", TO_HEADS),
    *dense(f"{theirs}.o", f"{ours}/out", FROM_HEADS),
  ]


_SELF = [
  *norm("0.layer_norm", "attention_norm"),
  *_attention("0.SelfAttention", "attention"),
]
_CROSS = [
  *norm("1.layer_norm", "cross_attention_norm"),
  *_attention("1.EncDecAttention", "cross_attention"),
]
_BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def table(mlp: Iterable[Entry]) -> Table:
  """Returns the names of a family whose blocks end with this feed-forward."""
  mlp = [*norm("layer_norm", "mlp_norm"), *mlp]
  return Table(
    entries=[
      Entry(EMBEDDING, "token_embedding"),
      Entry(f"encoder.{_BIAS}", "encoder/position/relative_bias"),
      *under("encoder.block.{i}.layer.", "encoder/layer_{i}/", [
        *_SELF, *under("1.", "", mlp),
      ]),
      *norm("encoder.final_layer_norm", "encoder/final_norm"),
      Entry(f"decoder.{_BIAS}", "decoder/position/relative_bias"),
      *under("decoder.block.{i}.layer.", "decoder/layer_{i}/", [
        *_SELF, *_CROSS, *under("2.", "", mlp),
      ]),
      *norm("decoder.final_layer_norm", "decoder/final_norm"),
      Entry(HEAD, "head", "V D -> D V"),
    ],
    copies={
      "encoder.embed_tokens.weight": EMBEDDING,
      "decoder.embed_tokens.weight": EMBEDDING,
      HEAD: EMBEDDING,
    },
    # Early files have one for cross-attention, which reads none.
    unread=[r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_.*"],
  )  # fmt: skip


TENSORS = table([
  *dense("DenseReluDense.wi", "mlp/wi"),
  *dense("DenseReluDense.wi_0", "mlp/wi_gate"),
  *dense("DenseReluDense.wi_1", "mlp/wi_linear"),
  *dense("DenseReluDense.wo", "mlp/wo"),
])  # fmt: skip


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  config.expect("is_encoder_decoder", True)
  config.expect("is_decoder", False)
  num_layers = config.integer("num_layers")
  # Early configs say tie_word_embeddings: false where the logits are not
  # scaled. Whether the head is tied, the weights know.
  scale = config.flag("tie_word_embeddings", True)
  scale = config.flag("scale_decoder_outputs", scale)
  if config.text("model_type") == "mt5":
    scale = False
  num_decoder_layers = config.integer("num_decoder_layers", num_layers)
  mlp = _feedforward(config)
  return Transformer(
    width=config.integer("d_model"),
    vocab_size=config.integer("vocab_size"),
    encoder=stack(config, "encoder", num_layers, [mlp]),
    decoder=stack(config, "decoder", num_decoder_layers, [mlp]),
    lm_head=LMHead(tied=config.names.tied(HEAD, to=EMBEDDING), scale=scale),
  )


def stack(
  config: Config, side: str, num_layers: int, mlps: Sequence[nn.Module]
) -> Stack:
  """Reads one side, whose layers have these feed-forwards in turn."""
  num_heads = config.integer("num_heads")
  dropout = config.number("dropout_rate", 0.1)
  rms_norm = RMSNorm(epsilon=config.number("layer_norm_epsilon", 1e-6))
  attention = Attention(
    num_heads=num_heads,
    head_dim=config.integer("d_kv"),
    core=CoreAttention(scale_at_init=True, dropout_rate=dropout),
  )
  layers = [
    Layer(
      attention=attention,
      cross_attention=attention if side == "decoder" else None,
      mlp=mlp,
      norm=rms_norm,
      dropout_rate=dropout,
    )
    for mlp in mlps
  ]
  position = T5Bias(
    num_heads=num_heads,
    bidirectional=side == "encoder",
    num_buckets=config.integer("relative_attention_num_buckets", 32),
    max_distance=config.integer("relative_attention_max_distance", 128),
  )
  return Stack(
    layer=layers[0] if len(layers) == 1 else Period(layers),
    num_layers=num_layers,
    rule=Full() if side == "encoder" else Causal(),
    position=position,
    final_norm=rms_norm,
    dropout_rate=dropout,
    output_dropout_rate=dropout,
  )


def _feedforward(config) -> MLP:
  kind, name = config.choice("feed_forward_proj", _FEED_FORWARDS, "relu")
  # Newer files say the same again in two options.
  config.expect("is_gated_act", kind is Gated)
  return kind(
    hidden=config.integer("d_ff"),
    activation=config.choice("dense_act_fn", ACTIVATIONS, name),
    dropout_rate=config.number("dropout_rate", 0.1),
  )


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  mlp = transformer.encoder.layer.mlp
  kinds = {
    (kind, ACTIVATIONS[name]): (proj, name)
    for proj, (kind, name) in _FEED_FORWARDS.items()
  }
  proj, name = kinds[type(mlp), mlp.activation]
  return {
    **write_stacks(transformer),
    "d_ff": mlp.hidden,
    "feed_forward_proj": proj,
    "dense_act_fn": name,
    "is_gated_act": isinstance(mlp, Gated),
    "tie_word_embeddings": transformer.lm_head.tied,
    "scale_decoder_outputs": transformer.lm_head.scale,
  }


def write_stacks(transformer: Transformer) -> dict:
  """Returns the options that do not speak of feed-forwards and the head."""
  encoder, decoder = transformer.encoder, transformer.decoder
  attention = encoder.period[0].attention
  return {
    "vocab_size": transformer.vocab_size,
    "d_model": transformer.width,
    "d_kv": attention.head_dim,
    "num_layers": encoder.num_layers,
    "num_decoder_layers": decoder.num_layers,
    "num_heads": attention.num_heads,
    "relative_attention_num_buckets": encoder.position.num_buckets,
    "relative_attention_max_distance": encoder.position.max_distance,
    "dropout_rate": encoder.dropout_rate,
    "layer_norm_epsilon": encoder.final_norm.epsilon,
    "is_encoder_decoder": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
  }
