"""Stops: strings that end a text, found in its tokens while it is generated."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# No token is read yet; a string is there; no beginning of a string is.
_FRESH, _FOUND, _NOTHING = 0, 1, 2
# Sizes are rounded up, so that few programs serve all strings.
_STATES, _KINDS = 8, 16


class Stops(NamedTuple):
  """An automaton over tokens that finds strings (Aho & Corasick 1975).

  Its states are the beginnings of strings that a text may end with. Tokens are
  of one kind if they lead to the same from each state: most have no part of
  any string, so the table is small whatever the vocabulary.

  Attributes:
    kind_V: int32 [ids], the kind of each token.
    after_SK: int32 [S, kinds], the state after each state and kind. S is more
      than the bytes of the longest string.
  """

  kind_V: jax.Array
  after_SK: jax.Array

  def found(self, tokens_NT: jax.Array, step: jax.Array) -> jax.Array:
    """Returns whether a string ends in the token of column `step`, bool [N].

    The last S tokens are read anew at each step, so that beams, drafts and rows
    that come and go need not carry a state.
    """
    size = self.after_SK.shape[0]
    columns_S = step + 1 - size + jnp.arange(size)
    tokens_NS = tokens_NT[:, jnp.maximum(columns_S, 0)]
    kinds_SN = jnp.where(columns_S >= 0, self.kind_V[tokens_NS], -1).T
    start = jnp.where(columns_S[0] <= 0, _FRESH, _NOTHING)

    def read(state_N, kind_N):
      after_N = self.after_SK[state_N, kind_N]
      return jnp.where(kind_N >= 0, after_N, state_N), None

    state_N = jnp.full(tokens_NT.shape[0], start, jnp.int32)
    state_N, _ = jax.lax.scan(read, state_N, kinds_SN, unroll=_STATES)
    return state_N == _FOUND


@functools.lru_cache(maxsize=8)
def find(
  strings: tuple[str, ...], first: tuple[bytes, ...], later: tuple[bytes, ...]
) -> Stops:
  """Returns the automaton that finds some strings, as NumPy arrays.

  Args:
    strings: what ends a text, none of them empty.
    first: the bytes of each token as the first of a text; b"" for an id that is
      no text. No string is found across such an id, and the token after it
      counts as a first one.
    later: the bytes of each token after others, which end with those of
      `first`.
  """
  after_SB = _bytes_automaton([string.encode() for string in strings])
  after_SV = _after_tokens(after_SB, range(len(after_SB)), later)
  after_SV[_FRESH] = _after_tokens(after_SB, [_NOTHING], first)[0]
  after_SK, kind_V = np.unique(after_SV, axis=1, return_inverse=True)
  kinds = after_SK.shape[1]
  room = max(_KINDS, 1 << (kinds - 1).bit_length()) - kinds
  return Stops(
    kind_V=kind_V.reshape(-1).astype(np.int32),
    after_SK=np.pad(after_SK, [(0, 0), (0, room)]),
  )


def _bytes_automaton(strings: Sequence[bytes]) -> np.ndarray:
  """Returns the state after each state and byte, int32 [S, 256]."""
  begun = {string[:n] for string in strings for n in range(len(string))}
  numbers = {
    text: number for number, text in enumerate(sorted(begun, key=len), _NOTHING)
  }
  size = -(-(len(numbers) + _NOTHING) // _STATES) * _STATES
  after_SB = np.full((size, 256), _NOTHING, np.int32)
  after_SB[_FOUND] = _FOUND
  # The state of the longest beginning that each of them ends with.
  shorter = {b"": _NOTHING}
  for text, state in numbers.items():
    if text not in shorter:
      continue  # A string is in it, so it is never reached.
    after_SB[state] = after_SB[shorter[text]]
    for byte in range(256):
      longer = text + bytes([byte])
      if longer in strings:
        after_SB[state, byte] = _FOUND
      elif longer in numbers and after_SB[state, byte] != _FOUND:
        shorter[longer] = after_SB[state, byte]
        after_SB[state, byte] = numbers[longer]
  return after_SB


def _after_tokens(after_SB, states, tokens) -> np.ndarray:
  """Returns the state after each of N states and all V tokens, int32."""
  length_V = np.array([len(token) for token in tokens])
  order = np.argsort(-length_V, kind="stable")
  most = max(1, int(length_V.max()))
  padded = b"".join(tokens[i].ljust(most, b"\0") for i in order)
  byte_LV = np.frombuffer(padded, np.uint8).reshape(-1, most).T.copy()
  after_NV = np.empty((len(states), len(tokens)), np.int32)
  for row_V, state in zip(after_NV, states, strict=True):
    state_V = np.full(len(tokens), state, np.int32)
    for column, byte_V in enumerate(byte_LV):
      count = np.searchsorted(-length_V[order], -column)  # Those longer.
      state_V[:count] = after_SB[state_V[:count], byte_V[:count]]
    row_V[order] = state_V
  after_NV[:, length_V == 0] = _FRESH
  return after_NV
