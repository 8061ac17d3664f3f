"""BLOOM: LayerNorm also of the embeddings, ALiBi, biases throughout.

BigScience Workshop 2022, arXiv:2211.05100.
"""

from t5x_lite.interop.options import Option, Options, four_widths
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
from t5x_lite.nn.positions import Alibi

MODEL_TYPES = {"bloom": "BloomForCausalLM"}

TENSORS = Table(
  entries=[
    Entry("transformer.word_embeddings.weight", "token_embedding"),
    *norm("transformer.word_embeddings_layernorm", "decoder/input_norm"),
    *under("transformer.h.{i}.", "decoder/layer_{i}/", [
      *norm("input_layernorm", "attention_norm"),
      *dense("self_attention.query_key_value", QKV, TO_GROUPS),
      *dense("self_attention.dense", "attention/out", FROM_HEADS),
      *norm("post_attention_layernorm", "mlp_norm"),
      *dense("mlp.dense_h_to_4h", "mlp/wi"),
      *dense("mlp.dense_4h_to_h", "mlp/wo"),
    ]),
    *norm("transformer.ln_f", "decoder/final_norm"),
    Entry("lm_head.weight", "head", "V D -> D V"),
  ],
  copies={"lm_head.weight": "transformer.word_embeddings.weight"},
  renames=[(r"^(word_embeddings\w*|h|ln_f)\.", r"transformer.\1.")],
)  # fmt: skip

OPTIONS = Options(
  rows=[
    Option("vocab_size", "vocab_size"),
    Option("hidden_size", "width"),
    Option("n_layer", "stack.num_layers"),
    Option("n_head", ("attention.num_heads", "position.num_heads")),
    Option("layer_norm_epsilon", "norm.epsilon", 1e-5),
    Option("attention_dropout", "attention.dropout_rate", 0.0),
    Option("hidden_dropout", "layer.dropout_rate", 0.0),
    Option("tie_word_embeddings", "tie_embeddings", True),
  ],
  fixed={
    "attention.use_bias": True, "mlp.use_bias": True, "mlp.hidden": four_widths,
    "mlp.activation": "gelu_tanh",
  },
  aliases={
    "n_embed": "hidden_size", "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
  },
  always={"apply_residual_connection_post_layernorm": False},
  # How the training code ran, and leftovers of it that nothing reads.
  without_effect=[
    "slow_but_exact", "attention_softmax_in_fp32", "masked_softmax_fusion",
    "bias_dropout_fusion", "skip_bias_add", "skip_bias_add_qkv", "seq_length",
    "offset_alibi", "n_inner",
  ],
  position=Alibi,
  stack_norms=("input_norm", "final_norm"),
)  # fmt: skip

read, write = OPTIONS.read, OPTIONS.write
