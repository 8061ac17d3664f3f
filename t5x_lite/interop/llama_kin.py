"""What LLaMA and its kin share: names of tensors, and of options.

Each takes from here what it has; what is its own stands in its file.
"""

from collections.abc import Mapping, Sequence

from t5x_lite.interop import rope
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
from t5x_lite.nn.attention_rules import AttentionRule, Causal
from t5x_lite.nn.feedforward import Gated
from t5x_lite.nn.norms import RMSNorm
from t5x_lite.nn.positions import PositionEncoding
from t5x_lite.nn.stack import Layer, Period, Stack
from t5x_lite.nn.transformer import Transformer

GATED_MLP = [
  *dense("mlp.gate_proj", "mlp/wi_gate"),
  *dense("mlp.up_proj", "mlp/wi_linear"),
  *dense("mlp.down_proj", "mlp/wo"),
]


def table(mlp: Sequence[Entry] = GATED_MLP) -> Table:
  """Returns the names of a family whose layers have this feed-forward."""
  return Table(
    entries=[
      Entry("model.embed_tokens.weight", "token_embedding"),
      *under("model.layers.{i}.", "decoder/layer_{i}/", [
        *norm("input_layernorm", "attention_norm"),
        *dense("self_attn.q_proj", "attention/query", TO_HEADS),
        *dense("self_attn.k_proj", "attention/key", TO_HEADS),
        *dense("self_attn.v_proj", "attention/value", TO_HEADS),
        *dense("self_attn.o_proj", "attention/out", FROM_HEADS),
        *norm("post_attention_layernorm", "mlp_norm"),
        *mlp,
      ]),
      *norm("model.norm", "decoder/final_norm"),
      Entry("lm_head.weight", "head", "V D -> D V"),
    ],
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    unread=[r".*\.rotary_emb\.inv_freq"],
  )  # fmt: skip


def attention(
  config: Config, *, head_dim: int | None = None, **settings
) -> Attention:
  """Reads self-attention.

  Args:
    head_dim: where config.json states none; None is hidden_size / heads.
    settings: more of the Attention.
  """
  heads = config.integer("num_attention_heads")
  head_dim = config.integer("head_dim", head_dim)
  return Attention(
    num_heads=heads,
    num_kv_heads=config.integer("num_key_value_heads", heads),
    head_dim=head_dim or config.share("hidden_size", "num_attention_heads"),
    dropout_rate=config.number("attention_dropout", 0.0),
    **settings,
  )


def gated_mlp(
  config: Config,
  *,
  activation: str = "silu",
  activations: Mapping[str, str] = ACTIVATIONS,
  **settings,
) -> Gated:
  """Reads the feed-forward.

  Args:
    activation: theirs, where config.json states none.
    activations: what their names mean, {theirs: ours}.
    settings: more of the Gated.
  """
  return Gated(
    hidden=config.integer("intermediate_size"),
    activation=config.choice("hidden_act", activations, activation),
    **settings,
  )


def rms_norm(config: Config, epsilon: float = 1e-6, **settings) -> RMSNorm:
  """Reads the norm; `epsilon` where config.json states none."""
  return RMSNorm(epsilon=config.number("rms_norm_eps", epsilon), **settings)


def transformer(
  config: Config,
  layer: Layer | Period,
  *,
  position: PositionEncoding,
  rule: AttentionRule | None = None,
  tied: bool = False,
  **settings,
) -> Transformer:
  """Reads what stands around the layers.

  Args:
    layer: of the stack, or the period of several.
    position: the rotary encoding.
    rule: who sees whom, mostly Causal.
    tied: whether the head is the embedding, where config.json does not say.
    settings: more of the Transformer.
  """
  first = layer if isinstance(layer, Layer) else layer.layers[0]
  return Transformer(
    width=config.integer("hidden_size"),
    vocab_size=config.integer("vocab_size"),
    decoder=Stack(
      layer=layer,
      num_layers=config.integer("num_hidden_layers"),
      rule=rule or Causal(),
      position=position,
      final_norm=first.norm.clone(),
    ),
    tie_embeddings=config.flag("tie_word_embeddings", tied),
    **settings,
  )


def options(transformer: Transformer, *, partial: bool = False) -> dict:
  """Returns the options that all of them have.

  Args:
    partial: whether the family may turn a part of each head.
  """
  stack = transformer.decoder
  first = stack.period[0]
  return {
    "vocab_size": transformer.vocab_size,
    "hidden_size": transformer.width,
    "num_hidden_layers": stack.num_layers,
    "num_attention_heads": first.attention.num_heads,
    "num_key_value_heads": (
      first.attention.num_kv_heads or first.attention.num_heads
    ),
    "head_dim": first.attention.head_dim,
    "attention_dropout": first.attention.dropout_rate,
    "rms_norm_eps": stack.final_norm.epsilon,
    "tie_word_embeddings": transformer.tie_embeddings,
    **rope.write(stack.position, partial=partial),
  }


def gated_mlp_options(mlp: Gated) -> dict:
  """Returns the options of the feed-forward."""
  return {
    "intermediate_size": mlp.hidden,
    "hidden_act": NAMES[mlp.activation],
  }
