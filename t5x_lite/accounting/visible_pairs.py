"""Counts the query-key pairs that attention rules let attend."""

from collections.abc import Callable

import jax
import numpy as np

from t5x_lite.nn.attention_rules import TokenInfo

# Queries to look at, evenly spaced: enough to know a share within 1%.
_QUERIES = 64


def share(rule, length: int) -> float:
  """Returns the share of a row's query-key pairs that a rule lets attend.

  The row is one document without a prefix: 1 for Full, about 1/2 for Causal.
  """

  def tokens(places):
    places = np.asarray(places, np.int32)[None]
    return TokenInfo(places, places, np.ones_like(places), places < 0)

  step = max(1, length // _QUERIES)
  queries = np.arange(step // 2, length, step)
  with jax.ensure_compile_time_eval():
    return float(np.mean(rule(tokens(queries), tokens(np.arange(length)))))


def by_component(model, rows) -> Callable[[str], float]:
  """Returns a function of a component, "decoder/attention_scores", to a share.

  Args:
    model: a model.Model.
    rows: the length of a row's encoder and decoder side.
  """
  shares = {}
  for side in ("encoder", "decoder"):
    stack = getattr(model.transformer, side)
    if stack is not None and rows.get(side):
      found = [
        share(layer.rule or inner.rule, rows[side])
        for inner in stack.stacks
        for layer in inner.layers[: len(inner.period)]
      ]
      shares[f"{side}/attention_scores"] = float(np.mean(found))
  return lambda component: shares.get(component, 1.0)
