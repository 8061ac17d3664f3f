"""Checks of settings where an object is built: one line shows the number."""

from collections.abc import Iterable
from typing import Any


def at_least_one(owner: Any, *names: str):
  """Refuses fields that count something and are below 1; None passes."""
  for name in names:
    value = getattr(owner, name)
    if value is not None and value < 1:
      raise ValueError(
        f"{type(owner).__name__}.{name} ({value}) must be at least 1"
      )


def one_of(owner: Any, name: str, allowed: Iterable[str | None]):
  """Refuses a field whose value is not one of those that it may have."""
  value, allowed = getattr(owner, name), tuple(allowed)
  if value not in allowed:
    raise ValueError(
      f"unknown {type(owner).__name__}.{name} {value!r}: use one of "
      f"{', '.join(map(str, allowed))}"
    )


def dropout_rate(owner: Any):
  """Refuses a share of dropped features that leaves none, or is no share."""
  if not 0 <= owner.dropout_rate < 1:
    raise ValueError(
      f"{type(owner).__name__}.dropout_rate ({owner.dropout_rate}) must be in "
      "[0, 1)"
    )
