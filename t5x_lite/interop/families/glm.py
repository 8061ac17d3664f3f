"""GLM-4: LLaMA with RoPE in half of each head, by neighbours, and biases in
queries, keys and values.

GLM Team 2024, arXiv:2406.12793.
"""

from t5x_lite.interop import llama_kin
from t5x_lite.interop.options import Option
from t5x_lite.interop.rope import Rotary
from t5x_lite.interop.tables import Projection, dense
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"glm": "GlmForCausalLM"}

# The gate above what it gates.
_GATE_AND_LINEAR = Projection("([1 1] F) D -> D F", "([1 1] F) -> F")

TENSORS = llama_kin.table([
  *dense("mlp.gate_up_proj", ("mlp/wi_gate", "mlp/wi_linear"),
         _GATE_AND_LINEAR),
  *dense("mlp.down_proj", "mlp/wo"),
])  # fmt: skip

OPTIONS = llama_kin.options(
  Option("attention_bias", "attention.projections.use_bias", True),
  head_dim=128,
  epsilon=1.5625e-7,
  fixed={"attention.projections.out_bias": False},
  rope=Rotary(fraction=0.5, interleaved=True),
)

read = OPTIONS.read


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  # Where none is stated GLM-4's own counts, which must be in the vocabulary.
  small = transformer.vocab_size <= 151_329
  padding = {"pad_token_id": None} if small else {}
  return padding | OPTIONS.write(transformer)
