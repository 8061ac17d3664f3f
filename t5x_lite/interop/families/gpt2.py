"""GPT-2: LayerNorm before each branch, learned positions, biases throughout.

Radford et al. 2019, Language Models are Unsupervised Multitask Learners.
"""

from t5x_lite.interop.options import Option, Options, four_widths
from t5x_lite.interop.tables import (
  CONV1D,
  CONV1D_FROM_HEADS,
  CONV1D_TO_HEADS,
  QKV,
  Entry,
  Table,
  dense,
  norm,
  under,
)

MODEL_TYPES = {"gpt2": "GPT2LMHeadModel"}

TENSORS = Table(
  entries=[
    Entry("transformer.wte.weight", "token_embedding"),
    Entry("transformer.wpe.weight", "decoder/position/position_embedding"),
    *under("transformer.h.{i}.", "decoder/layer_{i}/", [
      *norm("ln_1", "attention_norm"),
      *dense("attn.c_attn", QKV, CONV1D_TO_HEADS),
      *dense("attn.c_proj", "attention/out", CONV1D_FROM_HEADS),
      *norm("ln_2", "mlp_norm"),
      *dense("mlp.c_fc", "mlp/wi", CONV1D),
      *dense("mlp.c_proj", "mlp/wo", CONV1D),
    ]),
    *norm("transformer.ln_f", "decoder/final_norm"),
    Entry("lm_head.weight", "head", "V D -> D V"),
  ],
  copies={"lm_head.weight": "transformer.wte.weight"},
  unread=[r".*\.attn\.(bias|masked_bias)"],  # Masks.
  renames=[(r"^(wte|wpe|h|ln_f)\.", r"transformer.\1.")],
)  # fmt: skip

ALIASES = {
  "hidden_size": "n_embd", "num_hidden_layers": "n_layer",
  "num_attention_heads": "n_head",
}  # fmt: skip


def rows(*own: Option, dropout: float = 0.1, tied: bool = True) -> list[Option]:
  """Returns the rows of the first GPTs and of GPT-J, and some of their own.

  Args:
    *own: rows.
    dropout, tied: where config.json states none.
  """
  return [
    Option("vocab_size", "vocab_size"),
    Option("n_embd", "width"),
    Option("n_layer", "stack.num_layers"),
    Option("n_head", "attention.num_heads"),
    Option("layer_norm_epsilon", "norm.epsilon", 1e-5),
    Option("attn_pdrop", "attention.core.dropout_rate", dropout),
    Option("resid_pdrop", "layer.dropout_rate", dropout),
    Option("embd_pdrop", "stack.dropout_rate", dropout),
    Option("tie_word_embeddings", "lm_head.tied", tied),
    *own,
  ]


INNER = (
  Option("n_inner", "mlp.hidden", four_widths),
  Option("activation_function", "mlp.activation", "gelu_new"),
)

OPTIONS = Options(
  rows=rows(*INNER, Option("n_positions", "position.max_length", 1024)),
  fixed={"attention.projections.use_bias": True, "mlp.use_bias": True},
  aliases=ALIASES | {"max_position_embeddings": "n_positions"},
  always={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
  without_effect=["reorder_and_upcast_attn"],  # Softmax is float32 here.
)

read, write = OPTIONS.read, OPTIONS.write
