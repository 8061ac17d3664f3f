"""Suggests known names that are similar to a misspelt one, for errors."""

import difflib
from collections.abc import Iterable, Sequence


def near(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> list[str]:
  """Returns up to 3 known names, the most similar first."""
  return difflib.get_close_matches(name, list(known), n=3, cutoff=cutoff)


def did_you_mean(names: Sequence[str]) -> str:
  """Returns "; did you mean a or b?", or "" if there are no names."""
  return f"; did you mean {' or '.join(names)}?" if names else ""
