"""BLOOM: LayerNorm also of the embeddings, ALiBi, biases throughout.

BigScience Workshop 2022, arXiv:2211.05100.
"""

from t5x_lite.interop.families import falcon
from t5x_lite.interop.options import Option, Options, four_widths
from t5x_lite.nn.positions import Alibi

MODEL_TYPES = {"bloom": "BloomForCausalLM"}

TENSORS = falcon.table(
  *falcon.NORMS,
  renames=[(r"^(word_embeddings\w*|h|ln_f)\.", r"transformer.\1.")],
)

OPTIONS = Options(
  rows=[
    Option("vocab_size", "vocab_size"),
    Option("hidden_size", "width"),
    Option("n_layer", "stack.num_layers"),
    Option("n_head", ("attention.num_heads", "position.num_heads")),
    Option("layer_norm_epsilon", "norm.epsilon", 1e-5),
    Option("attention_dropout", "attention.core.dropout_rate", 0.0),
    Option("hidden_dropout", "layer.dropout_rate", 0.0),
    Option("tie_word_embeddings", "lm_head.tied", True),
  ],
  fixed={
    "attention.projections.use_bias": True, "mlp.use_bias": True,
    "mlp.hidden": four_widths, "mlp.activation": "gelu_tanh",
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
