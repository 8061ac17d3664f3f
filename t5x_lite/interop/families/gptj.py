"""GPT-J: a parallel block with one norm, RoPE in part of each head by
neighbours, a head with a bias.

Wang and Komatsuzaki 2021, GPT-J-6B.
"""

from t5x_lite.interop.config import ACTIVATIONS, NAMES, Config
from t5x_lite.interop.tables import (
  FROM_HEADS,
  TO_HEADS,
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
from t5x_lite.nn.positions import Rope
from t5x_lite.nn.stack import Layer, Stack
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"gptj": "GPTJForCausalLM"}

TENSORS = Table(
  entries=[
    Entry("transformer.wte.weight", "token_embedding"),
    *under("transformer.h.{i}.", "decoder/layer_{i}/", [
      *norm("ln_1", "attention_norm"),
      *dense("attn.q_proj", "attention/query", TO_HEADS),
      *dense("attn.k_proj", "attention/key", TO_HEADS),
      *dense("attn.v_proj", "attention/value", TO_HEADS),
      *dense("attn.out_proj", "attention/out", FROM_HEADS),
      *dense("mlp.fc_in", "mlp/wi"),
      *dense("mlp.fc_out", "mlp/wo"),
    ]),
    *norm("transformer.ln_f", "decoder/final_norm"),
    Entry("lm_head.weight", "head", "V D -> D V"),
    Entry("lm_head.bias", "head_bias"),
  ],
  copies={"lm_head.weight": "transformer.wte.weight"},
  # Masks and frequencies.
  unread=[r".*\.attn\.(bias|masked_bias|embed_positions)"],
)  # fmt: skip


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  config.aliases(
    hidden_size="n_embd", num_hidden_layers="n_layer",
    num_attention_heads="n_head",
  )  # fmt: skip
  config.expect("rotary", True)
  config.expect("scale_attn_weights", True)
  width = config.integer("n_embd")
  head_dim = config.share("n_embd", "n_head")
  rotated = config.integer("rotary_dim", 64)
  layer_norm = LayerNorm(epsilon=config.number("layer_norm_epsilon", 1e-5))
  layer = Layer(
    attention=Attention(
      num_heads=config.integer("n_head"),
      head_dim=head_dim,
      dropout_rate=config.number("attn_pdrop", 0.0),
    ),
    mlp=MLP(
      hidden=config.integer("n_inner", 4 * width),
      activation=config.choice("activation_function", ACTIVATIONS, "gelu_new"),
      use_bias=True,
    ),
    norm=layer_norm,
    parallel=True,
    dropout_rate=config.number("resid_pdrop", 0.0),
  )
  return Transformer(
    width=width,
    vocab_size=config.integer("vocab_size"),
    decoder=Stack(
      layer=layer,
      num_layers=config.integer("n_layer"),
      rule=Causal(),
      position=Rope(fraction=rotated / head_dim, interleaved=True),
      final_norm=layer_norm,
      dropout_rate=config.number("embd_pdrop", 0.0),
    ),
    tie_embeddings=config.flag("tie_word_embeddings", False),
    head_bias=True,
  )


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  stack = transformer.decoder
  layer = stack.layer
  head_dim = layer.attention.head_dim
  return {
    "vocab_size": transformer.vocab_size,
    "n_embd": transformer.width,
    "n_inner": layer.mlp.hidden,
    "n_layer": stack.num_layers,
    "n_head": layer.attention.num_heads,
    "rotary_dim": round(stack.position.fraction * head_dim),
    "activation_function": NAMES[layer.mlp.activation],
    "layer_norm_epsilon": stack.final_norm.epsilon,
    "attn_pdrop": layer.attention.dropout_rate,
    "resid_pdrop": layer.dropout_rate,
    "embd_pdrop": stack.dropout_rate,
    "tie_word_embeddings": transformer.tie_embeddings,
  }
