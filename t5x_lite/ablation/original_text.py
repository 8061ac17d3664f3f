"""Finds what tokens stand for in the original text, and what of it they lose.

A tokenizer may normalise: decoded, its tokens are another text. The two are
aligned by their longest common subsequence, and a cut between tokens is made in
the original where the alignment has it:

    original   T h e _ _ ﬁ n e ␤ ☃     decoded   t h e _ f i n e
    kept         h e _     n e
    lost       T       _ ﬁ     ␤ ☃

Characters that are not in it are lost; so is whatever an unknown token stands
for, or a "</s>" in it that a tokenizer takes for its end. Cuts divide all of
the original, so that the bytes of the parts sum to those of the whole.
"""

import bisect
import os.path
from typing import Any

# A UTF-8 character has no more bytes, and may have as many tokens.
_LONGEST_CHARACTER = 4


class OriginalText:
  """A text and its tokens, which may be cut and counted in bytes.

  Attributes:
    ids: the tokens of the text.
  """

  def __init__(self, vocabulary: Any, text: str):
    """Encodes a text by a vocabulary like seqio's."""
    self.ids = list(vocabulary.encode(text))
    self._vocabulary = vocabulary
    self._text = text
    self._decoded = self._decode(len(self.ids))
    self._kept = common_subsequence(text, self._decoded)

  def whole(self, place: int) -> int:
    """Returns the first place from `place` on at which a character ends."""
    last = min(place + _LONGEST_CHARACTER, len(self.ids) + 1)
    for n in range(max(place, 1), last):
      if self._reached(n) > self._reached(n - 1):
        return n
    return place

  def num_bytes(self, start: int, stop: int) -> int:
    """Counts the bytes, in UTF-8, of what ids[start:stop] stand for."""
    return len(self._text[self._cut(start) : self._cut(stop)].encode())

  def num_lost(self, start: int, stop: int) -> int:
    """Counts those of them whose characters are lost."""
    first, end = self._cut(start), self._cut(stop)
    kept = [self._text[i] for i, _ in self._kept if first <= i < end]
    return self.num_bytes(start, stop) - len("".join(kept).encode())

  def _cut(self, place: int) -> int:
    """Returns where the original is cut for a cut before ids[place]."""
    if place in (0, len(self.ids)):
      return len(self._text) if place else 0
    reached = self._reached(place)
    # The last character before the cut that is kept, and the first after it.
    following = bisect.bisect_left(self._kept, reached, key=lambda ij: ij[1])
    ends = (-1, -1), (len(self._text), len(self._decoded))
    (i, j), (next_i, next_j) = (ends[0], *self._kept, ends[1])[
      following : following + 2
    ]
    # Of what was replaced between them, as large a share.
    share = (reached - j - 1) / max(next_j - j - 1, 1)
    return i + 1 + round(share * (next_i - i - 1))

  def _reached(self, place: int) -> int:
    """Returns how much of the decoded text ids[:place] give for certain."""
    prefix = self._decode(place)
    return len(os.path.commonprefix([prefix, self._decoded]))

  def _decode(self, place: int) -> str:
    no_text = (self._vocabulary.unk_id, self._vocabulary.eos_id)
    return self._vocabulary.decode(
      [i for i in self.ids[:place] if i not in no_text]
    )


def common_subsequence(a: str, b: str) -> list[tuple[int, int]]:
  """Returns the places (in a, in b) of a longest common subsequence.

  Takes as many steps as the texts have characters, each on an integer of as
  many bits: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
  """
  places = {}
  for i, character in enumerate(a):
    places[character] = places.get(character, 0) | 1 << i
  every = (1 << len(a)) - 1
  # Bit i of row j is 0 where a[: i + 1] has one more in common with b[: j + 1]
  # than a[:i] has.
  row, rows = every, []
  for character in b:
    matches = row & places.get(character, 0)
    row = ((row + matches) | (row - matches)) & every
    rows.append(row)
  found, i, j = [], len(a) - 1, len(b) - 1
  while i >= 0 and j >= 0:
    if rows[j] >> i & 1:
      i -= 1
    elif j and not rows[j - 1] >> i & 1:
      j -= 1
    else:
      found.append((i, j))
      i, j = i - 1, j - 1
  return found[::-1]
