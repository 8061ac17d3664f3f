"""LLaMA: RMSNorm, SwiGLU, RoPE, grouped queries.

Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288; Llama Team 2024,
arXiv:2407.21783.
"""

from t5x_lite.interop import llama_kin
from t5x_lite.interop.options import Option

MODEL_TYPES = {"llama": "LlamaForCausalLM"}

TENSORS = llama_kin.table()

OPTIONS = llama_kin.options(
  Option("attention_bias", "attention.projections.use_bias", False),
  Option("mlp_bias", "mlp.use_bias", False),
)

read, write = OPTIONS.read, OPTIONS.write
