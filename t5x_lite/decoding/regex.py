"""Regex: generated texts match a regular expression."""

import dataclasses
import functools
import types
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from t5x_lite import checks
from t5x_lite.decoding.automata import DEAD, START, Automaton, Table

# So many states' edges are looked for at once, to bound the memory.
_STATES = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regex(Automaton):
  """Allows only texts that a regular expression matches as a whole.

  The syntax is that of Rust's `regex`, which is nearly Python's; it has no
  look-around, back-references, anchors or word boundaries. The expression is an
  automaton over bytes, by `outlines-core`; a token is an edge for each state
  from which its bytes can be read (Willard & Louf 2023, arXiv:2307.09702,
  section 3). A text that is near the maximum length goes on by such tokens
  alone that a match can still end in time.

  Attributes:
    pattern: the expression.
    first: the bytes of each token as the first of a text; b"" for an id that is
      no text, such as EOS.
    later: the bytes of each token after others.

  Raises:
    ValueError: the expression cannot be read, or no text of these tokens
      matches it; or `outlines-core` is not installed.
  """

  pattern: str
  first: Sequence[bytes] = dataclasses.field(repr=False)
  later: Sequence[bytes] = dataclasses.field(repr=False)

  def __post_init__(self):
    checks.fields(self)
    # Hashable: a static argument of the compiled loop.
    object.__setattr__(self, "first", tuple(self.first))
    object.__setattr__(self, "later", tuple(self.later))
    self.table()

  def table(self) -> Table:
    return _table(self.pattern, self.first, self.later)


@functools.lru_cache(maxsize=8)
def _table(pattern, first, later) -> Table:
  after_SB, may_end_S = _bytes_automaton(pattern)
  # The start is a state of its own, since the first token may read otherwise;
  # the states after it are those of bytes, one higher.
  edges = _edges(after_SB, np.array([START]), _spelled(first))
  found = [(edges[0], edges[1], edges[2] + 1)]
  spelled, seen_S = _spelled(later), np.zeros(len(may_end_S), bool)
  while len(new_C := np.setdiff1d(edges[2], np.flatnonzero(seen_S))):
    seen_S[new_C] = True
    parts = np.array_split(new_C, -(-len(new_C) // _STATES))
    parts = [_edges(after_SB, part, spelled) for part in parts]
    edges = [np.concatenate(x) for x in zip(*parts, strict=True)]
    found.append((edges[0] + 1, edges[1], edges[2] + 1))
  table = Table.of(
    *(np.concatenate(x) for x in zip(*found, strict=True)),
    np.concatenate([[False], may_end_S[START:][:1], may_end_S[START:]]),
  )
  if not table.is_possible:
    raise ValueError(
      f"regex={pattern!r:.80} matches no text that the tokens of the "
      "vocabulary can spell: correct it"
    )
  return table


class _Spelled(NamedTuple):
  """The tokens that are text.

  ids: int32 [P].
  length: int32 [P], their numbers of bytes.
  bytes: uint8 [P, L], padded.
  """

  ids: np.ndarray
  length: np.ndarray
  bytes: np.ndarray


def _spelled(tokens: Sequence[bytes]) -> _Spelled:
  texts = [token for token in tokens if token]
  most = max(map(len, texts), default=1)
  padded = b"".join(token.ljust(most, b"\0") for token in texts)
  return _Spelled(
    np.flatnonzero(np.array([len(token) > 0 for token in tokens], bool)),
    np.array([len(token) for token in texts], np.int32),
    np.frombuffer(padded, np.uint8).reshape(len(texts), most),
  )


def _edges(after_SB, states_C, spelled):
  """Returns (state, token, state after it) of all tokens after some states."""
  state_CP = after_SB[states_C][:, spelled.bytes[:, 0]]
  source_E, place_E = np.nonzero(state_CP != DEAD)
  state_E = state_CP[source_E, place_E]
  for column in range(1, spelled.bytes.shape[1]):
    reads_E = spelled.length[place_E] > column
    byte_E = spelled.bytes[place_E, column]
    state_E = np.where(reads_E, after_SB[state_E, byte_E], state_E)
    is_alive_E = state_E != DEAD
    source_E, place_E, state_E = (
      x[is_alive_E] for x in (source_E, place_E, state_E)
    )
  return states_C[source_E], spelled.ids[place_E], state_E


def _bytes_automaton(pattern: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns the states after each byte [S, 256], and where texts may end."""
  library = outlines_core()
  end = 256
  vocabulary = library.Vocabulary(
    end, {bytes([byte]): [byte] for byte in range(end)}
  )
  try:
    library.Index(pattern, vocabulary)  # Refuses what is no expression.
    # Of an expression that may end and go on, the index leaves out how it goes
    # on, unless it ends there. With a last character it ends but once.
    index = library.Index(f"(?:{pattern})\\x00", vocabulary)
  except ValueError as error:
    reason = " ".join(str(error).split())
    raise ValueError(
      f"regex={pattern!r:.80} cannot be used: {reason:.120}; write it in the "
      "syntax of Rust, without look-around, back-references, ^, $ and \\b"
    ) from None
  transitions = index.get_transitions()
  others = transitions.keys() - {index.get_initial_state()}
  states = [index.get_initial_state(), *sorted(others)]
  numbers = {state: number for number, state in enumerate(states, START)}
  after_SB = np.zeros((len(states) + START, end), np.int32)
  for state, found in transitions.items():
    for byte, after in found.items():
      if byte != end:
        after_SB[numbers[state], byte] = numbers[after]
  finals = [numbers[state] for state in index.get_final_states()]
  may_end_S = np.isin(after_SB[:, 0], finals)
  after_SB[:, 0] = DEAD
  return after_SB, may_end_S


def outlines_core() -> types.ModuleType:
  """Returns the package that reads expressions and JSON schemas.

  Raises:
    ValueError: it is not installed.
  """
  try:
    import outlines_core
  except ImportError:
    raise ValueError(
      "regular expressions and JSON schemas need the package outlines-core: "
      'pip install "t5x_lite[patterns]"'
    ) from None
  return outlines_core
