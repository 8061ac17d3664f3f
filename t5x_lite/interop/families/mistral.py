"""Mistral: LLaMA in which a token sees a window of those before it.

Jiang et al. 2023, arXiv:2310.06825.
"""

from t5x_lite.interop import llama_kin
from t5x_lite.interop.config import Config
from t5x_lite.nn.attention_rules import Window
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"mistral": "MistralForCausalLM"}

TENSORS = llama_kin.table()

OPTIONS = llama_kin.options()


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  settings = OPTIONS.settings(config)
  # Mistral 7B had a window from the start; later ones state null.
  if not config.null("sliding_window"):
    settings["stack.rule"] = Window(config.integer("sliding_window", 4096))
  return OPTIONS.transformer(settings)


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  return OPTIONS.write(transformer) | llama_kin.window(transformer)
