"""LLaMA: RMSNorm, SwiGLU, RoPE, grouped queries.

Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288; Llama Team 2024,
arXiv:2407.21783.
"""

from t5x_lite.interop import llama_kin, rope
from t5x_lite.interop.config import Config
from t5x_lite.nn.stack import Layer
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"llama": "LlamaForCausalLM"}

TENSORS = llama_kin.table()


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  attention_bias = config.flag("attention_bias", False)
  mlp_bias = config.flag("mlp_bias", False)
  layer = Layer(
    attention=llama_kin.attention(config, use_bias=attention_bias),
    mlp=llama_kin.gated_mlp(config, use_bias=mlp_bias),
    norm=llama_kin.rms_norm(config),
  )
  return llama_kin.transformer(config, layer, position=rope.read(config))


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  layer = transformer.decoder.layer
  return {
    **llama_kin.options(transformer),
    **llama_kin.gated_mlp_options(layer.mlp),
    "attention_bias": layer.attention.use_bias,
    "mlp_bias": layer.mlp.use_bias,
  }
