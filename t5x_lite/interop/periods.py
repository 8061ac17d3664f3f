"""Finds the shortest period of layers that a stack repeats."""

from collections.abc import Sequence


def shortest(layers: Sequence) -> list:
  """Returns the fewest first elements that give all by repetition."""
  layers = list(layers)
  for period in range(1, len(layers)):
    repeats, rest = divmod(len(layers), period)
    if not rest and layers == layers[:period] * repeats:
      return layers[:period]
  return layers
