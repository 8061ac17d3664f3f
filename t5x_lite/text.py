"""Text to tokens and back where sentinels, <extra_id_N>, stand for blanks.

A sentinel is one token, counted from the end of the vocabulary, as T5's span
corruption has it. A vocabulary here is any object like seqio's: encode, decode,
eos_id, vocab_size, extra_ids; and, where ids below vocab_size stand for no
token, unused_ids.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from t5x_lite import text_files

_SENTINEL = re.compile(r"<extra_id_(\d+)>")


def has_sentinels(text: str) -> bool:
  """Tells whether the text has blanks."""
  return _SENTINEL.search(text) is not None


def encode(vocabulary: Any, text: str) -> list[int]:
  """Tokenises a text, each <extra_id_N> to its one token; adds no EOS.

  Raises:
    ValueError: the text has a sentinel that the vocabulary lacks, or a lone
      surrogate.
  """
  text_files.check_text(text, "the text")
  if not vocabulary.extra_ids or not has_sentinels(text):
    return list(vocabulary.encode(text))
  numbers = [int(number) for number in _SENTINEL.findall(text)]
  if max(numbers) >= vocabulary.extra_ids:
    raise ValueError(
      f"<extra_id_{max(numbers)}> is not in the vocabulary: it has "
      f"{vocabulary.extra_ids} sentinels, <extra_id_0> to "
      f"<extra_id_{vocabulary.extra_ids - 1}>"
    )
  # SentencePiece may know them at the start of a word only, and spell
  # "jel<extra_id_0>" out. The piece holds the space, so that "jel <extra_id_0>"
  # gives the tokens that training gives for a word cut in two.
  for spelling in (text, re.sub(r"(?<=[^ ])(?=<extra_id_)", " ", text)):
    ids = list(vocabulary.encode(spelling))
    found = _sentinel_numbers(vocabulary)
    if [found[i] for i in ids if i in found] == numbers:
      return ids
  # It does not know them at all.
  ids = []
  for i, part in enumerate(_SENTINEL.split(text)):  # text, number, text, ...
    is_number = i % 2
    ids += (
      [_sentinel_id(vocabulary, int(part))]
      if is_number
      else vocabulary.encode(part)
    )
  return ids


def encode_continuation(
  vocabulary: Any, context: str, continuation: str, *, alone: bool = False
) -> tuple[list[int], list[int]]:
  """Tokenises a text and what continues it; adds no EOS.

    "Answer: "  "A"    "Answer:| A"    [encode("Answer:")]  [the rest of
                                       encode("Answer: A")]

  As lm-evaluation-harness does it (`TemplateLM._encode_pair`): white space at
  the end of the context goes over to the continuation, which has the tokens
  that the joint text has after those of the context. Where one of them reaches
  across the cut, an `alone` continuation, an encoder-decoder's, loses none of
  its characters: it is encoded by itself.

  Raises:
    ValueError: a text has a sentinel that the vocabulary lacks.
  """
  given = context.rstrip()
  continuation = context[len(given) :] + continuation
  ids = encode(vocabulary, given)
  whole = encode(vocabulary, given + continuation)
  if alone and whole[: len(ids)] != ids:
    return ids, encode(vocabulary, continuation)
  return ids, whole[len(ids) :]


def decode(vocabulary: Any, ids: Sequence[int]) -> str:
  """Returns the text of the tokens before EOS, sentinels spelt out."""
  ids = [int(i) for i in ids]
  if vocabulary.eos_id in ids:
    ids = ids[: ids.index(vocabulary.eos_id)]
  if not vocabulary.extra_ids or _spells_sentinels(vocabulary):
    return vocabulary.decode(ids)
  numbers = _sentinel_numbers(vocabulary)
  text, plain = "", []
  for i in ids:
    if i in numbers:
      text += vocabulary.decode(plain) + f"<extra_id_{numbers[i]}>"
      plain = []
    else:
      plain.append(i)
  return text + vocabulary.decode(plain)


def known_ids(vocabulary: Any) -> np.ndarray:
  """Tells of each id below vocab_size whether it is a token's, bool [ids].

  Special ids and sentinels are tokens; a model may have further ids, which
  round its vocabulary up.
  """
  has_token = np.ones(vocabulary.vocab_size, bool)
  has_token[list(getattr(vocabulary, "unused_ids", ()))] = False
  return has_token


def fill(
  vocabulary: Any,
  text: str,
  prediction: str,
  *,
  mark: tuple[str, str] = ("", ""),
) -> str:
  """Shows a text with its blanks filled in by a prediction.

    text        a <extra_id_0> makes a <extra_id_1>.
    prediction  <extra_id_0> swallow <extra_id_1> summer
    filled      a [swallow] makes a [summer].        with mark=("[", "]")

  The tokens are joined, not the texts: a word that the blank cut in two is
  one word again. A blank without a prediction stays as it is.
  """
  numbers = _sentinel_numbers(vocabulary)
  spans, span = {}, []
  for i in encode(vocabulary, prediction):
    if i in numbers:
      span = spans.setdefault(i, [])
    else:
      span.append(i)
  ids, bounds = [], []
  for i in encode(vocabulary, text):
    if i in spans:
      bounds.append((len(ids), len(ids) + len(spans[i])))
    ids += spans.get(i, [i])

  filled, end = "", 0
  whole = decode(vocabulary, ids)
  for bound in bounds:
    start, stop = (len(decode(vocabulary, ids[:n])) for n in bound)
    blank = whole[start:stop]
    lead = len(blank) - len(blank.lstrip())  # spaces stay outside of the mark
    filled += whole[end : start + lead] + mark[0] + blank.strip() + mark[1]
    end = start + max(lead, len(blank.rstrip()))
  return filled + whole[end:]


def _sentinel_id(vocabulary, number):
  return vocabulary.vocab_size - 1 - number


def _sentinel_numbers(vocabulary):
  count = vocabulary.extra_ids
  return {_sentinel_id(vocabulary, number): number for number in range(count)}


def _spells_sentinels(vocabulary):
  """Tells whether decode knows sentinels (seqio's bytes do not)."""
  text = vocabulary.decode([_sentinel_id(vocabulary, 0)])
  return text.strip() == "<extra_id_0>"
