"""Ends texts at stop strings: rows of tokens, and what they decode to."""

import bisect
from collections.abc import Callable, Sequence

from t5x_lite import decoding
from t5x_lite.data import sentinels, token_bytes


def stops(
  strings: tuple[str, ...], vocabulary: sentinels.Vocabulary
) -> decoding.Stops | None:
  """Returns what ends rows in the step that completes a string.

  None if there are no strings, or if tokens have no bytes of their own: rows
  run to their end then, and `cut` alone ends the text.
  """
  if not strings:
    return None
  try:
    spelled = token_bytes.token_bytes(vocabulary)
  except ValueError:
    return None
  # Sentinels are decoded by themselves, as if a text began after each.
  names = set(sentinels.sentinel_ids(vocabulary))
  first, later = (
    tuple(b"" if i in names else text for i, text in enumerate(texts))
    for texts in spelled
  )
  return decoding.stops.find(strings, first, later)


def cut(
  tokens: Sequence[int],
  decode: Callable[[Sequence[int]], str],
  strings: Sequence[str],
) -> tuple[str, int | None]:
  """Returns the text of tokens, up to the first of some strings.

  If one of them is in it, the number of tokens up to the end of that string is
  returned too, or else None.
  """
  text = decode(tokens)
  if not any(string in text for string in strings):
    return text, None
  count = 1 + bisect.bisect_left(
    range(1, len(tokens)),
    True,
    key=lambda n: any(string in decode(tokens[:n]) for string in strings),
  )
  text = decode(tokens[:count])
  places = [text.find(string) for string in strings if string in text]
  return text[: min(places, default=len(text))], count
