"""Encodes and decodes texts in which sentinels, <extra_id_N>, mark blanks.

A sentinel is one token, whose id is at the end of the vocabulary, as in T5's
span corruption, or anywhere in the vocabulary's own file. A vocabulary may have
`unused_ids` beside seqio's interface, if some ids below vocab_size are not
tokens.
"""

import functools
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from t5x_lite.files import text_files

# <extra_id_007> and numbers in digits of other scripts are text, not sentinels.
SENTINEL = re.compile(r"<extra_id_(0|[1-9][0-9]{0,8})>")


class Vocabulary(Protocol):
  """Turns text into ids and back, as seqio's vocabularies do."""

  vocab_size: int
  extra_ids: int
  eos_id: int | None

  def encode(self, text: str) -> list[int]: ...
  def decode(self, ids: Sequence[int]) -> str: ...


def has_sentinels(text: str) -> bool:
  """Returns whether a text has sentinels."""
  return SENTINEL.search(text) is not None


def sentinel_ids(vocabulary: Vocabulary) -> tuple[int, ...]:
  """Returns the ids of a vocabulary's sentinels, in the order of their numbers.

  They are the vocabulary's `sentinel_ids`, if it has that attribute, or those
  of the pieces <extra_id_N> of its SentencePiece model. Otherwise they are the
  last `extra_ids` ids, and <extra_id_0> is the very last, as in seqio.
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
    # A missing piece has the id of the unknown token.
    ids = [i for i in ids if pieces.IdToPiece(i).removeprefix("▁") == name]
    if not ids:
      return tuple(found)
    found.append(ids[0])


def eos_id(vocabulary: Vocabulary) -> int | None:
  """Returns the end-of-sequence id, or None; SentencePiece's -1 is None."""
  found = vocabulary.eos_id
  return None if found is None or found < 0 else found


def require_eos(vocabulary: Vocabulary, what: str) -> int:
  """Returns the end-of-sequence id.

  Raises:
    ValueError: there is none, or it is the id of padding.
  """
  found = eos_id(vocabulary)
  if not found:
    lacks = "has none" if found is None else "has it at 0, the id of padding"
    raise ValueError(
      f"{what} needs an end of sequence, but vocabulary {vocabulary} {lacks}: "
      "use one with it (a SentencePiece model trained with --eos_id=1, a "
      "tokenizer.json with eos=...)"
    )
  return found


def check_padding(vocabulary: Vocabulary) -> None:
  """Checks that id 0 of a SentencePiece model is not text, but padding.

  Raises:
    ValueError: it is text; names the piece.
  """
  pieces = getattr(vocabulary, "tokenizer", None)
  if not hasattr(pieces, "PieceToId"):
    return
  if not (pieces.IsControl(0) or pieces.IsUnknown(0) or pieces.IsUnused(0)):
    raise ValueError(
      f"{vocabulary.sentencepiece_model_file} has the piece "
      f"{pieces.IdToPiece(0)!r} at id 0, the id of padding: train the model "
      "with --pad_id=0"
    )


@functools.lru_cache
def before_sentinels(count: int, *, at_start: bool = False) -> str:
  r"""Returns a pattern that matches a sentinel and the non-space before it.

  If a vocabulary's sentinel pieces include the space before them, r"\1 \2"
  inserts that space. The pattern works in Python's `re` and in RE2, which has
  no lookaround; it must be applied twice, since the matches of adjacent
  sentinels would overlap. SentencePiece writes a space as U+2581.

  Args:
    count: the vocabulary's number of sentinels; higher numbers are text.
    at_start: whether to match a sentinel at the start of the text as well.
  """
  numbers = "|".join(map(str, range(count)))
  start = "^|" if at_start else ""
  return f"({start}[^ ▁])(<extra_id_(?:{numbers})>)"


def spaced(text: str, count: int, *, at_start: bool = False) -> str:
  """Inserts missing spaces before sentinels; see `before_sentinels`."""
  if not count or not has_sentinels(text):
    return text
  pattern = before_sentinels(count, at_start=at_start)
  for _ in range(2):
    text = re.sub(pattern, r"\1 \2", text)
  return text


def encode(vocabulary: Vocabulary, text: str) -> list[int]:
  """Tokenises a text, with one token for each <extra_id_N>; adds no EOS.

  The ids are those of vocabulary.encode if it knows sentinels.

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
  # SentencePiece may know a sentinel only at the start of a word, and split the
  # one in "jel<extra_id_0>" into characters. Its piece includes the space, so
  # "jel <extra_id_0>" has the tokens that training has for a word cut in two.
  for spelling in (
    text,
    spaced(text, len(sentinels)),
    spaced(text, len(sentinels), at_start=True),
  ):
    ids = list(vocabulary.encode(spelling))
    rest = iter(ids)
    if all(sentinel in rest for sentinel in expected):  # in this order
      return ids
  # vocabulary.encode does not know sentinels.
  ids = []
  for i, part in enumerate(SENTINEL.split(text)):  # text, number, text, ...
    is_number = i % 2
    ids += [sentinels[int(part)]] if is_number else vocabulary.encode(part)
  return ids


def encode_continuation(
  vocabulary: Vocabulary,
  context: str,
  continuation: str,
  *,
  alone: bool = False,
) -> tuple[list[int], list[int]]:
  """Tokenises a context and its continuation; adds no EOS.

    "Answer: "  "A"    "Answer:| A"    [encode("Answer:")]  [the rest of
                                       encode("Answer: A")]

  As in lm-evaluation-harness (`TemplateLM._encode_pair`), white space at the
  end of the context is moved to the continuation, and the continuation's tokens
  are those of the joint text, less as many as the context has. If a token spans
  the boundary, an `alone` continuation, an encoder-decoder's, is encoded by
  itself instead, so that no characters are lost.

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


def decode(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
  """Returns the text of the tokens before EOS, with sentinels by name."""
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


def known_ids(vocabulary: Vocabulary) -> np.ndarray:
  """Returns whether each id below vocab_size is a token, bool [ids].

  Special ids and sentinels are tokens. A model may have more ids, since its
  vocabulary size is rounded up.
  """
  has_token = np.ones(vocabulary.vocab_size, bool)
  has_token[list(getattr(vocabulary, "unused_ids", ()))] = False
  return has_token


def text_ids(vocabulary: Vocabulary) -> np.ndarray:
  """Returns whether each id is a token that a text has, bool [ids].

  Padding, what stands around texts, the unknown token, masks and other special
  tokens are not.
  """
  names = ("eos_id", "unk_id", "start_id", "begin_id")
  special = {0, *(getattr(vocabulary, name, None) for name in names)}
  special |= {*sentinel_ids(vocabulary)}
  special |= {*getattr(vocabulary, "special_ids", ())}
  is_text = known_ids(vocabulary)
  is_text[[i for i in special - {None} if 0 <= i < len(is_text)]] = False
  return is_text


def mask(vocabulary: Vocabulary) -> tuple[str, int]:
  """Returns how a masked token is written, and its id.

  It is the vocabulary's `mask_token`, if it has one, or <extra_id_0>.

  Raises:
    ValueError: the vocabulary has neither.
  """
  token = getattr(vocabulary, "mask_token", None)
  if token is not None:
    return token, vocabulary.mask_id
  if not sentinel_ids(vocabulary):
    raise ValueError(
      f"vocabulary {vocabulary} has no mask token: name it as mask_token in "
      "tokenizer_config.json, or use a vocabulary with <extra_id_0>"
    )
  return "<extra_id_0>", sentinel_ids(vocabulary)[0]


def fill(
  vocabulary: Vocabulary,
  text: str,
  prediction: str,
  *,
  mark: tuple[str, str] = ("", ""),
) -> str:
  """Returns a text with its blanks filled in by a prediction.

    text        a <extra_id_0> makes a <extra_id_1>.
    prediction  <extra_id_0> swallow <extra_id_1> summer
    filled      a [swallow] makes a [summer].        with mark=("[", "]")

  Tokens are joined rather than texts, so that a word cut in two by a blank is
  one word again. A blank without a prediction is left unchanged.
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
    lead = len(blank) - len(blank.lstrip())  # the mark excludes spaces
    filled += whole[end : start + lead] + mark[0] + blank.strip() + mark[1]
    end = start + max(lead, len(blank.rstrip()))
  return filled + whole[end:]


def _sentinel_numbers(vocabulary) -> dict[int, int]:
  """Returns {id of a sentinel: its number}."""
  ids = sentinel_ids(vocabulary)
  return {i: number for number, i in enumerate(ids)}


def _spells_sentinels(vocabulary) -> bool:
  """Returns whether decode knows sentinels; ByteVocabulary's does not."""
  text = vocabulary.decode([sentinel_ids(vocabulary)[0]])
  return text.strip() == "<extra_id_0>"
