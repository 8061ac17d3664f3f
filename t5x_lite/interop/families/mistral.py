"""Mistral: LLaMA in which a token sees a window of those before it.

Jiang et al. 2023, arXiv:2310.06825.
"""

from t5x_lite.interop import llama_kin, rope
from t5x_lite.interop.config import Config
from t5x_lite.nn.attention_rules import Causal, Window
from t5x_lite.nn.stack import Layer
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"mistral": "MistralForCausalLM"}

TENSORS = llama_kin.table()


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  layer = Layer(
    attention=llama_kin.attention(config),
    mlp=llama_kin.gated_mlp(config),
    norm=llama_kin.rms_norm(config),
  )
  # Mistral 7B had a window from the start; later ones state null.
  if config.null("sliding_window"):
    rule = Causal()
  else:
    rule = Window(config.integer("sliding_window", 4096))
  return llama_kin.transformer(
    config, layer, rule=rule, position=rope.read(config)
  )


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  stack = transformer.decoder
  window = stack.rule.size if isinstance(stack.rule, Window) else None
  return {
    **llama_kin.options(transformer),
    **llama_kin.gated_mlp_options(stack.layer.mlp),
    "sliding_window": window,
  }
