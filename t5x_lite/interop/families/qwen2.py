"""Qwen2: LLaMA with biases in queries, keys and values, and windows in some
layers.

Yang et al. 2024, arXiv:2407.10671.
"""

from t5x_lite.interop import llama_kin, settings
from t5x_lite.interop.config import Config
from t5x_lite.nn.attention_rules import AttentionRule, Causal, Window
from t5x_lite.nn.stack import Period
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"qwen2": "Qwen2ForCausalLM"}

TENSORS = llama_kin.table()

OPTIONS = llama_kin.options(
  fixed={
    "attention.projections.use_bias": True,
    "attention.projections.out_bias": False,
  }
)


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  found = OPTIONS.settings(config)
  rule, *others = rules = settings.shortest_period(_rules(config))
  if not others:
    return OPTIONS.transformer(found | {"stack.rule": rule})
  transformer = OPTIONS.transformer(found)
  stack = transformer.decoder
  period = Period([stack.layer.clone(rule=r) for r in rules])
  return transformer.clone(decoder=stack.clone(layer=period))


def _rules(config: Config) -> list[AttentionRule]:
  """Reads who sees whom in each layer."""
  num_layers = config.integer("num_hidden_layers")
  first = config.integer("max_window_layers", 28, least=0)
  on = config.flag("use_sliding_window", False)
  on = on and not config.null("sliding_window")
  window = Window(config.integer("sliding_window", 4096))
  kinds: dict[str, AttentionRule] = {"full_attention": Causal()}
  if on:
    kinds["sliding_attention"] = window
  rules = config.choices("layer_types", kinds, num_layers)
  return rules or [
    window if on and i >= first else Causal() for i in range(num_layers)
  ]


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  stack = transformer.decoder
  rules = [layer.rule or stack.rule for layer in stack.layers]
  sizes = [rule.size for rule in rules if isinstance(rule, Window)]
  kinds = {True: "sliding_attention", False: "full_attention"}
  return {
    **OPTIONS.write(transformer),
    "use_sliding_window": bool(sizes),
    "sliding_window": sizes[0] if sizes else None,
    "max_window_layers": len(rules) - len(sizes),
    "layer_types": [kinds[isinstance(rule, Window)] for rule in rules],
  }
