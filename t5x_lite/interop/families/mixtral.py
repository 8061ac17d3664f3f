"""Mixtral: Mistral in which each token goes to two of eight feed-forwards.

Jiang et al. 2024, arXiv:2401.04088. Every expert has room for all. The balance
loss is not taken over, since `transformers` adds none unless asked to: set
MoE.balance_loss to train with one.
"""

from t5x_lite.interop import llama_kin, rope
from t5x_lite.interop.config import Config
from t5x_lite.interop.tables import Entry, dense, under
from t5x_lite.nn.attention_rules import Causal, Window
from t5x_lite.nn.moe import MoE
from t5x_lite.nn.stack import Layer
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"mixtral": "MixtralForCausalLM"}

TENSORS = llama_kin.table(under("block_sparse_moe.", "mlp/", [
  *dense("gate", "router"),
  Entry("experts.{e}.w1.weight", "experts/wi_gate/kernel", "F D -> D F"),
  Entry("experts.{e}.w3.weight", "experts/wi_linear/kernel", "F D -> D F"),
  Entry("experts.{e}.w2.weight", "experts/wo/kernel", "D F -> F D"),
]))  # fmt: skip


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  config.expect("router_jitter_noise", 0.0)
  config.without_effect("router_aux_loss_coef")
  config.aliases(num_experts="num_local_experts")
  moe = MoE(
    expert=llama_kin.gated_mlp(config),
    num_experts=config.integer("num_local_experts"),
    top_k=config.integer("num_experts_per_tok", 2),
    normalize_gates=True,
  )
  layer = Layer(
    attention=llama_kin.attention(config),
    mlp=moe,
    norm=llama_kin.rms_norm(config, 1e-5),
  )
  window = config.integer("sliding_window", None)
  return llama_kin.transformer(
    config,
    layer,
    rule=Window(window) if window else Causal(),
    position=rope.read(config, base=1e6),
  )


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  stack = transformer.decoder
  moe = stack.layer.mlp
  window = stack.rule.size if isinstance(stack.rule, Window) else None
  return {
    **llama_kin.options(transformer),
    **llama_kin.gated_mlp_options(moe.expert),
    "num_local_experts": moe.num_experts,
    "num_experts_per_tok": moe.top_k,
    "sliding_window": window,
  }
