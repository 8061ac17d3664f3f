"""Compares two Transformers by what they compute."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from t5x_lite.nn.attention import Attention, Projections
from t5x_lite.nn.stack import Layer, Period, Stack
from t5x_lite.nn.transformer import Transformer

# Fields that change how, how fast or from where on a model learns, but not
# which logits come out.
_WITHOUT_EFFECT = {
  "parent", "name", "scan", "remat", "kernel", "dtype", "dropout_rate",
  "output_dropout_rate", "stddev", "kernel_init",
  "value_init", "out_init", "balance_loss", "router_z_loss", "jitter",
}  # fmt: skip


def differences(here: Transformer, there: Transformer) -> list[str]:
  """Lists what two Transformers do not agree on, "NAME is X, not Y"."""
  a, b = _flat(here, "transformer"), _flat(there, "transformer")
  return [
    f"{path} is {a.get(path)!r}, not {b.get(path)!r}"
    for path in {**a, **b}
    if a.get(path) != b.get(path)
  ]


def _flat(value: Any, path: str) -> dict[str, Any]:
  """Returns {"decoder.layer.mlp": "Gated", "decoder.layer.mlp.hidden": 28}."""
  if isinstance(value, list | tuple):
    value = dict(enumerate(value))
  if isinstance(value, dict):
    below = value
  elif dataclasses.is_dataclass(value):
    below = {
      field.name: getattr(value, field.name)
      for field in dataclasses.fields(value)
      if field.init and field.name not in _WITHOUT_EFFECT
    }
    below |= _resolved(value)
  else:
    return {path: value}
  flat = {path: type(value).__name__}
  for name, part in below.items():
    flat |= _flat(part, f"{path}.{name}")
  return flat


def _resolved(value: Any) -> dict[str, Any]:
  """Returns fields that can say the same in several ways, in one of them."""
  match value:
    case Attention():
      return {"num_kv_heads": value.kv_heads}
    case Projections():
      return {"out_bias": value.has_out_bias}
    case Layer():
      return {"parallel_norms": value.parallel and value.parallel_norms}
    case Stack():
      layers = [
        layer.clone(rule=layer.rule or value.rule) for layer in value.layers
      ]
      period = shortest_period(layers)
      layer = Period(period) if len(period) > 1 else period[0]
      return {"layer": layer, "rule": None}
  return {}


def shortest_period(layers: Sequence) -> list:
  """Returns the fewest first elements that give all by repetition."""
  layers = list(layers)
  for period in range(1, len(layers)):
    repeats, rest = divmod(len(layers), period)
    if not rest and layers == layers[:period] * repeats:
      return layers[:period]
  return layers
