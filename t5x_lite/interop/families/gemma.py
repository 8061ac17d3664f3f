"""Gemma: LLaMA with GEGLU, scaled embeddings and zero-centred norms.

Gemma Team 2024, arXiv:2403.08295.
"""

from t5x_lite.interop import llama_kin, rope
from t5x_lite.interop.config import ACTIVATIONS, Config
from t5x_lite.nn.stack import Layer
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"gemma": "GemmaForCausalLM"}

TENSORS = llama_kin.table()

# The first files say "gelu" and mean the tanh form, which some then state in
# a second option.
_ACTIVATIONS = {**ACTIVATIONS, "gelu": "gelu_tanh"}


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  config.expect("use_bidirectional_attention", False)
  attention_bias = config.flag("attention_bias", False)
  mlp = llama_kin.gated_mlp(
    config, activation="gelu_pytorch_tanh", activations=_ACTIVATIONS
  )
  same = [name for name, ours in ACTIVATIONS.items() if ours == mlp.activation]
  config.expect("hidden_activation", *same)
  layer = Layer(
    attention=llama_kin.attention(
      config, head_dim=256, use_bias=attention_bias
    ),
    mlp=mlp,
    norm=llama_kin.rms_norm(config, zero_centred=True),
  )
  return llama_kin.transformer(
    config, layer, position=rope.read(config), tied=True, scale_embeddings=True
  )


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  layer = transformer.decoder.layer
  return {
    **llama_kin.options(transformer),
    **llama_kin.gated_mlp_options(layer.mlp),
    "attention_bias": layer.attention.use_bias,
  }
