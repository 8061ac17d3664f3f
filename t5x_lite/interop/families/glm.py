"""GLM-4: LLaMA with RoPE in half of each head, by neighbours, and biases in
queries, keys and values.

GLM Team 2024, arXiv:2406.12793.
"""

from t5x_lite.interop import llama_kin, rope
from t5x_lite.interop.config import Config
from t5x_lite.interop.tables import Projection, dense
from t5x_lite.nn.stack import Layer
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"glm": "GlmForCausalLM"}

# The gate above what it gates.
_GATE_AND_LINEAR = Projection("([1 1] F) D -> D F", "([1 1] F) -> F")

TENSORS = llama_kin.table([
  *dense("mlp.gate_up_proj", ("mlp/wi_gate", "mlp/wi_linear"),
         _GATE_AND_LINEAR),
  *dense("mlp.down_proj", "mlp/wo"),
])  # fmt: skip


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  layer = Layer(
    attention=llama_kin.attention(
      config,
      head_dim=128,
      use_bias=config.flag("attention_bias", True),
      out_bias=False,
    ),
    mlp=llama_kin.gated_mlp(config),
    norm=llama_kin.rms_norm(config, 1.5625e-7),
  )
  position = rope.read(config, fraction=0.5, interleaved=True)
  return llama_kin.transformer(config, layer, position=position)


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  layer = transformer.decoder.layer
  # Where none is stated GLM-4's own counts, which must be in the vocabulary.
  small = transformer.vocab_size <= 151_329
  return {
    **({"pad_token_id": None} if small else {}),
    **llama_kin.options(transformer, partial=True),
    **llama_kin.gated_mlp_options(layer.mlp),
    "attention_bias": layer.attention.use_bias,
  }
