"""Aligns tokens with the original text, and counts the bytes that they lose.

A tokenizer may normalise, so that its decoded tokens differ from the original.
The two texts are aligned by their longest common subsequence, which maps a cut
between two tokens to a place in the original:

    original   T h e _ _ ﬁ n e ␤ ☃     decoded   t h e _ f i n e
    kept         h e _     n e
    lost       T       _ ﬁ     ␤ ☃

Characters outside the subsequence are lost. So is the text of an unknown token,
and a "</s>" in the text that a tokenizer takes for EOS. The parts between cuts
cover the whole original, so their bytes add up to the bytes of the text.
"""

import bisect
import os.path

from t5x_lite.data.sentinels import Vocabulary

# The most bytes of a UTF-8 character, and so the most tokens for one character.
_LONGEST_CHARACTER = 4


class OriginalText:
  """Maps ranges of a text's tokens to bytes of the original.

  Attributes:
    ids: the token ids of the text.
  """

  def __init__(self, vocabulary: Vocabulary, text: str):
    """Encodes a text with a seqio-like vocabulary."""
    self.ids = list(vocabulary.encode(text))
    self._vocabulary = vocabulary
    self._text = text
    self._decoded = self._decode(len(self.ids))
    self._kept = common_subsequence(text, self._decoded)

  def whole(self, place: int) -> int:
    """Returns the first place at or after `place` where a character ends."""
    last = min(place + _LONGEST_CHARACTER, len(self.ids) + 1)
    for n in range(max(place, 1), last):
      if self._reached(n) > self._reached(n - 1):
        return n
    return place

  def num_bytes(self, start: int, stop: int) -> int:
    """Counts the UTF-8 bytes of the original text of ids[start:stop]."""
    return len(self._text[self._cut(start) : self._cut(stop)].encode())

  def num_lost(self, start: int, stop: int) -> int:
    """Counts the bytes among them that belong to lost characters."""
    first, end = self._cut(start), self._cut(stop)
    kept = [self._text[i] for i, _ in self._kept if first <= i < end]
    return self.num_bytes(start, stop) - len("".join(kept).encode())

  def _cut(self, place: int) -> int:
    """Returns the place in the original of a cut before ids[place]."""
    if place in (0, len(self.ids)):
      return len(self._text) if place else 0
    reached = self._reached(place)
    # The last kept character before the cut, and the first one after it.
    following = bisect.bisect_left(self._kept, reached, key=lambda ij: ij[1])
    ends = (-1, -1), (len(self._text), len(self._decoded))
    (i, j), (next_i, next_j) = (ends[0], *self._kept, ends[1])[
      following : following + 2
    ]
    # Between them text was replaced: cut both versions at the same fraction.
    share = (reached - j - 1) / max(next_j - j - 1, 1)
    return i + 1 + round(share * (next_i - i - 1))

  def _reached(self, place: int) -> int:
    """Returns the length of the decoded text that ids[:place] determine."""
    prefix = self._decode(place)
    return len(os.path.commonprefix([prefix, self._decoded]))

  def _decode(self, place: int) -> str:
    no_text = (self._vocabulary.unk_id, self._vocabulary.eos_id)
    return self._vocabulary.decode(
      [i for i in self.ids[:place] if i not in no_text]
    )


def common_subsequence(a: str, b: str) -> list[tuple[int, int]]:
  """Returns the places (in a, in b) of a longest common subsequence.

  Takes one step per character of `b`, on integers with one bit per character of
  `a`: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
  """
  places = {}
  for i, character in enumerate(a):
    places[character] = places.get(character, 0) | 1 << i
  every = (1 << len(a)) - 1
  # Bit i of row j is 0 if the subsequence of a[: i + 1] and b[: j + 1] is one
  # longer than that of a[:i] and b[: j + 1].
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
