"""Mixtral: Mistral in which each token goes to two of eight feed-forwards.

Jiang et al. 2024, arXiv:2401.04088. Every expert has room for all. The balance
loss is not taken over, since `transformers` adds none unless asked to: set
MoE.balance_loss to train with one.
"""

from t5x_lite.interop import llama_kin
from t5x_lite.interop.config import Config
from t5x_lite.interop.options import Option
from t5x_lite.interop.rope import Rotary
from t5x_lite.interop.tables import Entry, dense, under
from t5x_lite.nn.attention_rules import Window
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"mixtral": "MixtralForCausalLM"}

TENSORS = llama_kin.table(under("block_sparse_moe.", "mlp/", [
  *dense("gate", "router"),
  Entry("experts.{e}.w1.weight", "experts/wi_gate/kernel", "F D -> D F"),
  Entry("experts.{e}.w3.weight", "experts/wi_linear/kernel", "F D -> D F"),
  Entry("experts.{e}.w2.weight", "experts/wo/kernel", "D F -> F D"),
]))  # fmt: skip

OPTIONS = llama_kin.options(
  Option("num_local_experts", "mlp.num_experts"),
  Option("num_experts_per_tok", "mlp.top_k", 2),
  epsilon=1e-5,
  mlp="expert",
  fixed={"mlp.normalize_gates": True},
  aliases={"num_experts": "num_local_experts"},
  always={"router_jitter_noise": 0.0},
  without_effect=["router_aux_loss_coef"],
  rope=Rotary(base=1e6),
)


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  settings = OPTIONS.settings(config)
  if window := config.integer("sliding_window", None):
    settings["stack.rule"] = Window(window)
  return OPTIONS.transformer(settings)


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  return OPTIONS.write(transformer) | llama_kin.window(transformer)
