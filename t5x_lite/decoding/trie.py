"""Trie: generated texts are among given sequences of tokens."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from t5x_lite import checks
from t5x_lite.decoding.automata import START, Automaton, Table


@dataclasses.dataclass(frozen=True)
class Trie(Automaton):
  """Allows only texts that are among given ones, each token by token.

  After one of the sequences a text ends, or goes on with another of them that
  begins with it: entity names in retrieval (De Cao et al. 2021,
  arXiv:2010.00904, section 3.2), answers among which to choose. It is what
  `prefix_allowed_tokens_fn` is used for in `transformers`, as a table. A
  sequence that has more tokens than a text may have is not begun.

  Attributes:
    sequences: token ids, without the EOS.

  Raises:
    ValueError: no sequence, or an empty one.
  """

  sequences: Sequence[Sequence[checks.Whole]]

  def __post_init__(self):
    checks.fields(self)
    if not self.sequences or not all(self.sequences):
      raise ValueError(
        f"Trie.sequences ({self.sequences!r}) must have at least one sequence, "
        "and none without tokens"
      )
    # Hashable: a static argument of the compiled loop.
    sequences = sorted({tuple(map(int, s)) for s in self.sequences})
    object.__setattr__(self, "sequences", tuple(sequences))

  def table(self) -> Table:
    return _table(self.sequences)


@functools.lru_cache(maxsize=8)
def _table(sequences) -> Table:
  children, ends = [{}, {}], set()
  for sequence in sequences:
    state = START
    for token in sequence:
      if token not in children[state]:
        children[state][token] = len(children)
        children.append({})
      state = children[state][token]
    ends.add(state)
  edges = [
    (state, token, after)
    for state, found in enumerate(children)
    for token, after in found.items()
  ]
  may_end_N = np.isin(np.arange(len(children)), list(ends))
  return Table.of(*np.array(edges).T, may_end_N)
