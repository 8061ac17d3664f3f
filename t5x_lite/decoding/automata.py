"""Automata over tokens: tables of states that say which tokens may come next.

A trie of given texts (trie.py) and a regular expression (regex.py) are such
tables, and decoding walks both alike.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.decoding.texts import mark

DEAD, START = 0, 1
# More tokens than any text may have.
_UNREACHABLE = 2**30


class Table(NamedTuple):
  """The N states and E edges of an automaton; state 0 is that of no text.

  first: int32 [N + 1], each state's first edge; the next one's follow its last.
  token: int32 [E + most_edges], of a state's edges in ascending order; padded,
    so that a window of most_edges fits anywhere.
  state: int32 [E + most_edges], where each edge leads.
  needed: int32 [N], the fewest tokens from there to where a text may end.
  most_edges: the maximum number of edges of a state.
  """

  first: np.ndarray
  token: np.ndarray
  state: np.ndarray
  needed: np.ndarray
  most_edges: int

  @classmethod
  def of(
    cls,
    source_E: np.ndarray,
    token_E: np.ndarray,
    state_E: np.ndarray,
    may_end_N: np.ndarray,
  ) -> "Table":
    """Returns the table of some edges, without those that lead nowhere.

    Args:
      source_E, token_E, state_E: where each edge begins, its token and where it
        leads, in any order.
      may_end_N: the states in which a text may end, bool.
    """
    needed_N = _needed(source_E, state_E, may_end_N)
    is_used_E = needed_N[state_E] < _UNREACHABLE
    order = np.lexsort((token_E[is_used_E], source_E[is_used_E]))
    source_E, token_E, state_E = (
      x[is_used_E][order].astype(np.int32) for x in (source_E, token_E, state_E)
    )
    count_N = np.bincount(source_E, minlength=len(may_end_N))
    most_edges = max(1, int(count_N.max()))  # A window has a size.
    return cls(
      first=np.concatenate([[0], np.cumsum(count_N)]).astype(np.int32),
      token=np.pad(token_E, (0, most_edges)),
      state=np.pad(state_E, (0, most_edges)),
      needed=needed_N.astype(np.int32),
      most_edges=most_edges,
    )

  @property
  def is_possible(self) -> bool:
    """Returns whether there is any text."""
    return bool(self.needed[START] < _UNREACHABLE)


def _needed(source_E, state_E, may_end_N):
  """Returns the number of edges from each state to an end."""
  size = len(may_end_N)
  edges_P = np.unique(source_E.astype(np.int64) * size + state_E)
  source_P, state_P = edges_P // size, edges_P % size
  needed_N = np.where(may_end_N, 0, _UNREACHABLE)
  frontier_N = may_end_N
  for distance in range(1, size):
    here_P = frontier_N[state_P] & (needed_N[source_P] == _UNREACHABLE)
    if not here_P.any():
      break
    frontier_N = np.zeros(size, bool)
    frontier_N[source_P[here_P]] = True
    needed_N[frontier_N] = distance
  return needed_N


class Automaton:
  """Allows only texts that lead from the start to where a text may end.

  Its subclasses are frozen and hashable, as static arguments of the compiled
  loop are, and have a table. The tokens of a text are walked anew at each step,
  so that beams, drafts and rows that come and go need not carry a state.
  """

  def table(self) -> Table:
    """Returns the states and edges."""
    raise NotImplementedError

  @property
  def shortest(self) -> int:
    """Returns the number of tokens of the shortest text."""
    return int(self.table().needed[START])

  def ids(self) -> set[int]:
    """Returns the ids that may come."""
    table = self.table()
    return set(np.unique(table.token[: table.first[-1]]).tolist())

  def allowed(
    self,
    tokens_BT: jax.Array,
    first_B: jax.Array,
    step: jax.Array,
    left_B: jax.Array,
    end_ids: jax.Array,
    vocab_size: int,
  ) -> jax.Array:
    """Returns the tokens that may come next, bool [B, V].

    Args:
      tokens_BT: the tokens that were generated; from column `step` on anything.
      first_B: the column where the text begins.
      step: how many were generated.
      left_B: how many more there may be: a token after which no end can be
        reached within them is not allowed.
      end_ids: int32 [E], which may follow a whole text.
      vocab_size: V.
    """
    table = self.table()
    first_N, token_E, state_E, needed_N = map(jnp.asarray, table[:4])

    def walk(column, state_B):
      after_B = _next(table, state_B, tokens_BT[:, column])
      return jnp.where(column >= first_B, after_B, state_B)

    state_B = jnp.full(tokens_BT.shape[0], START, jnp.int32)
    state_B = jax.lax.fori_loop(0, step, walk, state_B)
    index_BK = first_N[state_B][:, None] + jnp.arange(table.most_edges)
    here_BK = index_BK < first_N[state_B + 1][:, None]
    here_BK &= needed_N[state_E[index_BK]] < left_B[:, None]
    none_BV = jnp.zeros((tokens_BT.shape[0], vocab_size), bool)
    allowed_BV = mark(none_BV, token_E[index_BK], here_BK)
    ends_V = jnp.isin(jnp.arange(vocab_size), end_ids)
    return allowed_BV | ((needed_N[state_B] == 0)[:, None] & ends_V)


def _next(table, state_B, token_B):
  """Returns where each state's edge of a token leads, by binary search."""
  first_N, token_E, state_E = map(jnp.asarray, table[:3])
  low_B, end_B = first_N[state_B], first_N[state_B + 1]
  high_B = end_B
  for _ in range(table.most_edges.bit_length()):
    middle_B = (low_B + high_B) // 2
    is_less_B = (low_B < high_B) & (token_E[middle_B] < token_B)
    low_B = jnp.where(is_less_B, middle_B + 1, low_B)
    high_B = jnp.where(is_less_B, high_B, middle_B)
  is_found_B = (low_B < end_B) & (token_E[low_B] == token_B)
  return jnp.where(is_found_B, state_E[low_B], DEAD)
