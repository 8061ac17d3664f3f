"""Text to tokens and back where sentinels, <extra_id_N>, stand for blanks.

A sentinel is one token, wherever its id is: at the end of the vocabulary, as
T5's span corruption has it, or where the vocabulary's own file has put it. A
vocabulary here is any object like seqio's: encode, decode, eos_id, vocab_size,
extra_ids; and, where ids below vocab_size stand for no token, unused_ids.
"""

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from t5x_lite.files import text_files

# <extra_id_007> is none, nor are digits of other scripts: those are text.
SENTINEL = re.compile(r"<extra_id_(0|[1-9][0-9]{0,8})>")


def has_sentinels(text: str) -> bool:
  """Tells whether the text has blanks."""
  return SENTINEL.search(text) is not None


def sentinel_ids(vocabulary: Any) -> tuple[int, ...]:
  """Returns the ids of <extra_id_0>, <extra_id_1>, ..., of those there are.

  A vocabulary says so itself (`sentinel_ids`), or its SentencePiece model has
  pieces of that name. Otherwise the last `extra_ids` ids are sentinels,
  <extra_id_0> the very last, as in seqio.
  """
  own = getattr(vocabulary, "sentinel_ids", None)
  if own is not None:
    return own
  pieces = getattr(vocabulary, "tokenizer", None)
  if hasattr(pieces, "PieceToId"):
    return _pieces_of_sentinels(pieces)
  last = vocabulary.vocab_size - 1
  return tuple(last - number for number in range(vocabulary.extra_ids))


def _pieces_of_sentinels(pieces) -> tuple[int, ...]:
  found = []
  while True:
    name = f"<extra_id_{len(found)}>"
    ids = [pieces.PieceToId(spelling) for spelling in (f"▁{name}", name)]
    # What is not there has the id of "unknown".
    ids = [i for i in ids if pieces.IdToPiece(i).removeprefix("▁") == name]
    if not ids:
      return tuple(found)
    found.append(ids[0])


def eos_id(vocabulary: Any) -> int | None:
  """Returns the token that ends a text, or None; -1 is SentencePiece's none."""
  found = vocabulary.eos_id
  return None if found is None or found < 0 else found


def require_eos(vocabulary: Any, what: str) -> int:
  """Returns the token that ends a text.

  Raises:
    ValueError: there is none, or it has the id of padding.
  """
  found = eos_id(vocabulary)
  if not found:
    lacks = "has none" if found is None else "has it at 0, the id of padding"
    raise ValueError(
      f"{what} needs an end of sequence, and vocabulary {vocabulary} {lacks}: "
      "use one with it (a SentencePiece model trained with --eos_id=1, a "
      "tokenizer.json with eos=...)"
    )
  return found


def check_padding(vocabulary: Any) -> None:
  """Refuses a SentencePiece model whose id 0 is text: it means padding.

  Raises:
    ValueError: naming the piece.
  """
  pieces = getattr(vocabulary, "tokenizer", None)
  if not hasattr(pieces, "PieceToId"):
    return
  if not (pieces.IsControl(0) or pieces.IsUnknown(0) or pieces.IsUnused(0)):
    raise ValueError(
      f"{vocabulary.sentencepiece_model_file} has the piece "
      f"{pieces.IdToPiece(0)!r} at id 0, which means padding: train the model "
      "with --pad_id=0"
    )


@functools.lru_cache
def before_sentinels(count: int, *, at_start: bool = False) -> str:
  r"""Returns the pattern of a sentinel and what is before it, if no space.

  Where sentinels are pieces that hold the space before them, a space goes
  between the two: r"\1 \2". The pattern is one for Python's `re` and for RE2,
  which looks neither ahead nor behind; it takes two passes, since sentinels
  that touch one another share a character. U+2581 is a space to SentencePiece.

  Args:
    count: the number of sentinels; others are text.
    at_start: whether a text that begins with a sentinel needs the space too.
  """
  numbers = "|".join(map(str, range(count)))
  start = "^|" if at_start else ""
  return f"({start}[^ ▁])(<extra_id_(?:{numbers})>)"


def spaced(text: str, count: int, *, at_start: bool = False) -> str:
  """Puts a space before each sentinel that has none; see `before_sentinels`."""
  if not count or not has_sentinels(text):
    return text
  pattern = before_sentinels(count, at_start=at_start)
  for _ in range(2):
    text = re.sub(pattern, r"\1 \2", text)
  return text


def encode(vocabulary: Any, text: str) -> list[int]:
  """Tokenises a text, each <extra_id_N> to its one token; adds no EOS.

  The ids are those of vocabulary.encode where that knows sentinels.

  Raises:
    ValueError: the text has a sentinel that the vocabulary lacks, or a lone
      surrogate.
  """
  text_files.check_text(text, "the text")
  numbers = [int(number) for number in SENTINEL.findall(text)]
  sentinels = sentinel_ids(vocabulary) if numbers else ()
  if not sentinels:
    return list(vocabulary.encode(text))
  if max(numbers) >= len(sentinels):
    raise ValueError(
      f"<extra_id_{max(numbers)}> is not in the vocabulary: it has "
      f"{len(sentinels)} sentinels, <extra_id_0> to "
      f"<extra_id_{len(sentinels) - 1}>"
    )
  expected = [sentinels[number] for number in numbers]
  # SentencePiece may know them at the start of a word only, and spell
  # "jel<extra_id_0>" out. The piece holds the space, so that "jel <extra_id_0>"
  # gives the tokens that training gives for a word cut in two.
  for spelling in (
    text,
    spaced(text, len(sentinels)),
    spaced(text, len(sentinels), at_start=True),
  ):
    ids = list(vocabulary.encode(spelling))
    rest = iter(ids)
    if all(sentinel in rest for sentinel in expected):  # in this order
      return ids
  # It does not know them at all.
  ids = []
  for i, part in enumerate(SENTINEL.split(text)):  # text, number, text, ...
    is_number = i % 2
    ids += [sentinels[int(part)]] if is_number else vocabulary.encode(part)
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
  ids, end = [int(i) for i in ids], eos_id(vocabulary)
  if end in ids:
    ids = ids[: ids.index(end)]
  numbers = _sentinel_numbers(vocabulary)
  if not numbers or _spells_sentinels(vocabulary):
    return vocabulary.decode(ids)
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


def _sentinel_numbers(vocabulary) -> dict[int, int]:
  """Maps the ids of sentinels to their numbers."""
  ids = sentinel_ids(vocabulary)
  return {i: number for number, i in enumerate(ids)}


def _spells_sentinels(vocabulary) -> bool:
  """Tells whether decode knows sentinels (seqio's bytes do not)."""
  text = vocabulary.decode([sentinel_ids(vocabulary)[0]])
  return text.strip() == "<extra_id_0>"
