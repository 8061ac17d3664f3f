"""What LLaMA and its kin share: names of tensors, and of options.

Each takes from here what it has; what is its own stands in its file.
"""

from collections.abc import Sequence

from t5x_lite.interop.options import Option, Options
from t5x_lite.interop.rope import Rotary
from t5x_lite.interop.tables import (
  FROM_HEADS,
  TO_HEADS,
  Entry,
  Table,
  dense,
  norm,
  under,
)
from t5x_lite.nn.attention_rules import Window
from t5x_lite.nn.feedforward import Gated
from t5x_lite.nn.norms import RMSNorm
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


_ROTARY = Rotary()


def options(
  *rows: Option,
  head_dim: int | None = None,
  epsilon: float = 1e-6,
  tied: bool = False,
  mlp: str = "mlp",
  hidden_act: Option | None = None,
  rope: Rotary = _ROTARY,
  **others,
) -> Options:
  """Returns the options of a family.

  Args:
    *rows: its own.
    head_dim, epsilon, tied: where config.json states none; no head_dim is
      hidden_size / heads.
    mlp: "mlp", or "expert" of a mixture.
    hidden_act: the row of the activation, where it is not the usual one.
    rope: the rotary encoding.
    **others: more of Options.
  """
  return Options(
    rows=[
      Option("vocab_size", "vocab_size"),
      Option("hidden_size", "width"),
      Option("num_hidden_layers", "stack.num_layers"),
      Option("num_attention_heads", "attention.num_heads"),
      Option(
        "num_key_value_heads",
        "attention.num_kv_heads",
        lambda settings: settings["attention.num_heads"],
        written="attention.kv_heads",
      ),
      Option("head_dim", "attention.head_dim", head_dim),
      Option("attention_dropout", "attention.core.dropout_rate", 0.0),
      Option("intermediate_size", f"{mlp}.hidden"),
      hidden_act or Option("hidden_act", f"{mlp}.activation", "silu"),
      Option("rms_norm_eps", "norm.epsilon", epsilon),
      Option("tie_word_embeddings", "lm_head.tied", tied),
      *rows,
    ],
    mlp=Gated,
    norm=RMSNorm,
    rope=rope,
    **others,
  )


def window(transformer: Transformer) -> dict:
  """Returns the option of the one window that all layers have, or none."""
  rule = transformer.decoder.rule
  return {"sliding_window": rule.size if isinstance(rule, Window) else None}
