"""Trie: generated texts are among given sequences of tokens."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import checks
from t5x_lite.decoding.texts import mark


@dataclasses.dataclass(frozen=True)
class Trie:
  """Allows only texts that are among given ones, each token by token.

  After one of the sequences a text ends, or goes on with another of them that
  begins with it: entity names in retrieval (De Cao et al. 2021,
  arXiv:2010.00904, section 3.2), answers among which to choose. It is what
  `prefix_allowed_tokens_fn` is used for in `transformers`, as a table.

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

  def ids(self) -> set[int]:
    """Returns the ids in the sequences."""
    return {token for sequence in self.sequences for token in sequence}

  def allowed(
    self,
    tokens_BT: jax.Array,
    first_B: jax.Array,
    step: jax.Array,
    end_ids: jax.Array,
    vocab_size: int,
  ) -> jax.Array:
    """Returns the tokens that may come next, bool [B, V].

    Args:
      tokens_BT: the tokens that were generated; from column `step` on anything.
      first_B: the column where the sequence begins.
      step: how many were generated.
      end_ids: int32 [E], which may follow a sequence's last token; they alone
        follow what is none of the sequences.
      vocab_size: V.
    """
    table = _table(self.sequences)
    edges = jnp.arange(table.most_edges)
    first_edge_N, num_edges_N = map(jnp.asarray, (table.first, table.count))
    token_E, node_E = map(jnp.asarray, (table.token, table.node))

    def edges_of(node_B):
      here_BK = edges < num_edges_N[node_B][:, None]
      return first_edge_N[node_B][:, None] + edges, here_BK

    def walk(node_B, column):
      index_BK, here_BK = edges_of(node_B)
      here_BK &= token_E[index_BK] == tokens_BT[:, column][:, None]
      after_B = jnp.max(jnp.where(here_BK, node_E[index_BK], table.dead), 1)
      is_walked_B = (column >= first_B) & (column < step)
      return jnp.where(is_walked_B, after_B, node_B), None

    root_B = jnp.full(tokens_BT.shape[0], table.root)
    node_B, _ = jax.lax.scan(walk, root_B, jnp.arange(tokens_BT.shape[1]))
    index_BK, here_BK = edges_of(node_B)
    none_BV = jnp.zeros((tokens_BT.shape[0], vocab_size), bool)
    allowed_BV = mark(none_BV, token_E[index_BK], here_BK)
    ends_V = jnp.isin(jnp.arange(vocab_size), end_ids)
    may_end_B = jnp.asarray(table.may_end)[node_B]
    return allowed_BV | (may_end_B[:, None] & ends_V)


class _Table(NamedTuple):
  """A trie's nodes N and edges E, those of a node side by side.

  Node 0 (dead) is where texts are that left the sequences; node 1 is the root.
  """

  first: np.ndarray  # int32 [N], a node's first edge.
  count: np.ndarray  # int32 [N], its number of edges.
  may_end: np.ndarray  # bool [N], whether a sequence ends there.
  token: np.ndarray  # int32 [E + most_edges], padded so that windows fit.
  node: np.ndarray  # int32 [E + most_edges], where the edge leads.
  most_edges: int
  dead: int = 0
  root: int = 1


@functools.lru_cache(maxsize=8)
def _table(sequences) -> _Table:
  children, ends = [{}, {}], {0}
  for sequence in sequences:
    node = 1
    for token in sequence:
      if token not in children[node]:
        children[node][token] = len(children)
        children.append({})
      node = children[node][token]
    ends.add(node)
  counts = np.array([len(found) for found in children], np.int32)
  edges = [edge for found in children for edge in found.items()]
  padding = [(-1, 0)] * counts.max()
  token, node = np.array(edges + padding, np.int32).T
  return _Table(
    first=np.cumsum(counts, dtype=np.int32) - counts,
    count=counts,
    may_end=np.isin(np.arange(len(children)), list(ends)),
    token=token,
    node=node,
    most_edges=int(counts.max()),
  )
