"""Gemma: LLaMA with GEGLU, scaled embeddings and zero-centred norms.

Gemma Team 2024, arXiv:2403.08295.
"""

from t5x_lite.interop import llama_kin
from t5x_lite.interop.config import ACTIVATIONS, Config
from t5x_lite.interop.options import Option
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"gemma": "GemmaForCausalLM"}

TENSORS = llama_kin.table()

# The first files say "gelu" and mean the tanh form, which some then state in
# a second option.
_ACTIVATIONS = {**ACTIVATIONS, "gelu": "gelu_tanh"}

OPTIONS = llama_kin.options(
  Option("attention_bias", "attention.projections.use_bias", False),
  head_dim=256,
  tied=True,
  hidden_act=Option(
    "hidden_act", "mlp.activation", "gelu_pytorch_tanh", names=_ACTIVATIONS
  ),
  fixed={"norm.zero_centred": True, "embedding.scale": True},
  always={"use_bidirectional_attention": False},
)

write = OPTIONS.write


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  settings = OPTIONS.settings(config)
  used = settings["mlp.activation"]
  same = [name for name, ours in ACTIVATIONS.items() if ours == used]
  config.expect("hidden_activation", *same)
  return OPTIONS.transformer(settings)
