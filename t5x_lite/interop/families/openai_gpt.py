"""GPT: LayerNorm after each branch, learned positions, biases throughout.

Radford et al. 2018, Improving Language Understanding by Generative
Pre-Training.
"""

from t5x_lite.interop.config import Config
from t5x_lite.interop.tables import (
  CONV1D,
  CONV1D_FROM_HEADS,
  CONV1D_TO_HEADS,
  QKV,
  Entry,
  Table,
  dense,
  norm,
  under,
)
from t5x_lite.nn.attention import Attention
from t5x_lite.nn.attention_rules import Causal
from t5x_lite.nn.feedforward import MLP
from t5x_lite.nn.norms import LayerNorm
from t5x_lite.nn.positions import Learned
from t5x_lite.nn.stack import Layer, Stack
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"openai-gpt": "OpenAIGPTLMHeadModel"}

TENSORS = Table(
  entries=[
    Entry("transformer.tokens_embed.weight", "token_embedding"),
    Entry(
      "transformer.positions_embed.weight",
      "decoder/position/position_embedding",
    ),
    *under("transformer.h.{i}.", "decoder/layer_{i}/", [
      *dense("attn.c_attn", QKV, CONV1D_TO_HEADS),
      *dense("attn.c_proj", "attention/out", CONV1D_FROM_HEADS),
      *norm("ln_1", "attention_norm"),
      *dense("mlp.c_fc", "mlp/wi", CONV1D),
      *dense("mlp.c_proj", "mlp/wo", CONV1D),
      *norm("ln_2", "mlp_norm"),
    ]),
    Entry("lm_head.weight", "head", "V D -> D V"),
  ],
  copies={"lm_head.weight": "transformer.tokens_embed.weight"},
  unread=[r".*\.attn\.bias", r"transformer\.position_ids"],  # A mask.
  renames=[
    (r"^(tokens_embed|positions_embed|position_ids|h)\b", r"transformer.\1")
  ],
)  # fmt: skip

# Its "gelu" is the tanh form. Theirs -> ours, and back.
_ACTIVATIONS = {
  "gelu": "gelu_tanh", "relu": "relu", "swish": "silu", "silu": "silu"
}  # fmt: skip
_NAMES = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  config.aliases(
    hidden_size="n_embd", num_hidden_layers="n_layer",
    num_attention_heads="n_head", max_position_embeddings="n_positions",
  )  # fmt: skip
  config.expect("n_special", 0)
  config.without_effect("predict_special_tokens")
  width = config.integer("n_embd")
  layer = Layer(
    attention=Attention(
      num_heads=config.integer("n_head"),
      head_dim=config.share("n_embd", "n_head"),
      use_bias=True,
      dropout_rate=config.number("attn_pdrop", 0.1),
    ),
    mlp=MLP(
      hidden=4 * width,
      activation=config.choice("afn", _ACTIVATIONS, "gelu"),
      use_bias=True,
    ),
    norm=LayerNorm(epsilon=config.number("layer_norm_epsilon", 1e-5)),
    norm_placement="post",
    dropout_rate=config.number("resid_pdrop", 0.1),
  )
  return Transformer(
    width=width,
    vocab_size=config.integer("vocab_size"),
    decoder=Stack(
      layer=layer,
      num_layers=config.integer("n_layer"),
      rule=Causal(),
      position=Learned(max_length=config.integer("n_positions", 512)),
      dropout_rate=config.number("embd_pdrop", 0.1),
    ),
    tie_embeddings=config.flag("tie_word_embeddings", True),
  )


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  stack = transformer.decoder
  layer = stack.layer
  return {
    "vocab_size": transformer.vocab_size,
    "n_embd": transformer.width,
    "n_layer": stack.num_layers,
    "n_head": layer.attention.num_heads,
    "n_positions": stack.position.max_length,
    "afn": _NAMES[layer.mlp.activation],
    "layer_norm_epsilon": layer.norm.epsilon,
    "attn_pdrop": layer.attention.dropout_rate,
    "resid_pdrop": layer.dropout_rate,
    "embd_pdrop": stack.dropout_rate,
    "tie_word_embeddings": transformer.tie_embeddings,
  }
