"""Switch Transformers: T5 with experts in every n-th layer.

Fedus et al. 2021, arXiv:2101.03961.
"""

from t5x_lite.interop.config import ACTIVATIONS, NAMES, Config
from t5x_lite.interop.families import t5
from t5x_lite.interop.tables import Entry, dense
from t5x_lite.nn.feedforward import MLP
from t5x_lite.nn.heads import LMHead
from t5x_lite.nn.moe import MoE
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {
  "switch_transformers": "SwitchTransformersForConditionalGeneration"
}

TENSORS = t5.table([
  *dense("mlp.wi", "mlp/wi"),
  *dense("mlp.wo", "mlp/wo"),
  Entry("mlp.router.classifier.weight", "mlp/router/kernel", "E D -> D E"),
  *dense("mlp.experts.expert_{e}.wi", "mlp/experts/wi"),
  *dense("mlp.experts.expert_{e}.wo", "mlp/experts/wo"),
])  # fmt: skip

# What early files say, and what no other file may say otherwise.
_ALWAYS = {
  "is_encoder_decoder": True,
  "is_decoder": False,
  "add_cross_attention": False,
  "tie_word_embeddings": True,
  "is_gated_act": False,
  "num_selected_experts": 1,
  "batch_prioritized_routing": False,
  "router_bias": False,
  "router_dtype": "float32",
}


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  for name, value in _ALWAYS.items():
    config.expect(name, value)
  # Padding comes last: no expert that takes it in turns a word away.
  config.without_effect(
    "router_ignore_padding_tokens", "add_router_probs", "n_positions",
    "num_partitions", "router_type",
  )  # fmt: skip
  num_layers = config.integer("num_layers", 12)
  sides = {
    "encoder": num_layers,
    "decoder": config.integer("num_decoder_layers", num_layers),
  }
  return Transformer(
    width=config.integer("d_model"),
    vocab_size=config.integer("vocab_size"),
    lm_head=LMHead(tied=True, scale=True),
    **{
      side: t5.stack(config, side, layers, _feedforwards(config, side, layers))
      for side, layers in sides.items()
    },
  )


def _feedforwards(config, side, num_layers) -> list:
  """Reads the feed-forwards of one period: the second one has experts."""
  sparse = config.index(f"num_sparse_{side}_layers", 3)
  period = num_layers // sparse if sparse else num_layers
  config.expect(f"{side}_sparse_step", period)
  config.expect("feed_forward_proj", config.text("dense_act_fn", "relu"))
  mlp = MLP(
    hidden=config.integer("d_ff"),
    activation=config.choice("dense_act_fn", ACTIVATIONS, "relu"),
    dropout_rate=config.number("dropout_rate", 0.1),
  )
  moe = MoE(
    expert=mlp,
    num_experts=config.integer("num_experts", 8),
    expert_capacity=config.integer("expert_capacity", 64),
    balance_loss=config.number("router_aux_loss_coef", 0.001),
    router_z_loss=config.number("router_z_loss_coef", 0.001),
    jitter=config.number("router_jitter_noise", 0.01),
  )
  return [moe] if period == 1 else [mlp, moe, *[mlp] * (period - 2)]


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  sparse = {}
  for side in ("encoder", "decoder"):
    stack = getattr(transformer, side)
    mlps = [layer.mlp for layer in stack.layers]
    experts = [mlp for mlp in mlps if isinstance(mlp, MoE)]
    sparse[f"num_sparse_{side}_layers"] = len(experts)
  if not experts:
    raise ValueError("no layer has experts")
  moe = experts[0]
  return {
    **t5.write_stacks(transformer),
    **sparse,
    "d_ff": moe.expert.hidden,
    "dense_act_fn": NAMES[moe.expert.activation],
    "num_experts": moe.num_experts,
    "expert_capacity": moe.expert_capacity,
    "router_aux_loss_coef": moe.balance_loss,
    "router_z_loss_coef": moe.router_z_loss,
    "router_jitter_noise": moe.jitter,
    "tie_word_embeddings": True,
  }
