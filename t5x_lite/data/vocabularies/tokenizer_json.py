"""Reads Hugging Face's tokenizer.json as a vocabulary: BPE, WordPiece, Unigram.

  file     0 "!"  1 "\\""  ...  50256 "<|endoftext|>"
  ours     0 pad  1 "!"  ...  50257 EOS             then the extra ids

In seqio, id 0 is padding. If id 0 of the file is text or EOS, all ids are one
higher than in the file, and the rows of a pretrained model's embedding must be
shifted too. Otherwise ids and decoded text are those of `transformers`: with
add_prefix_space, decoded text begins with a space; with Metaspace, a decoded
continuation loses its leading space.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence

from t5x_lite.data import sentinels as text_lib
from t5x_lite.data.vocabularies import hf_files
from t5x_lite.files import text_files

_PAD = ("<pad>", "[PAD]", "<|pad|>")
_UNK = ("<unk>", "[UNK]", "<|unk|>")


class TokenizerJson:
  """Encodes text by a tokenizer.json, with pad 0, EOS (if any) and sentinels.

  The special tokens that the file would add around a text are not added. If the
  file has sentinels, they are used, with any id: T5's <extra_id_0>, whose flags
  determine which adjacent white space it includes, or mT5's "▁<extra_id_0>".
  Otherwise `extra_ids` sentinels are added at the end; each then includes one
  space before it, as in pretraining.
  """

  def __init__(
    self,
    path: str,
    *,
    extra_ids: int = 100,
    eos: str | None = None,
    start: str | None = None,
    pieces: Sequence[str] = (),
    mask: str | None = None,
  ):
    """Stores the settings; the file is read on first use.

    Args:
      path: the path of tokenizer.json.
      extra_ids: the number of sentinels, if the file has none.
      eos: the EOS token; None finds it by the rules in hf_files.py.
      start: the decoder's start token, such as "<s>"; None means id 0.
      pieces: new tokens, which get ids after those of the file.
      mask: the token of masked language models, such as "[MASK]".
    """
    self._path = str(path)
    self._eos = eos
    self._start = start
    self._pieces = tuple(pieces)
    self._mask = mask
    self._given_extra_ids = extra_ids

  @property
  def path(self) -> str:
    """Returns the path of tokenizer.json."""
    return self._path

  @functools.cached_property
  def tokenizer(self):
    """Returns the `tokenizers.Tokenizer` with the new pieces."""
    tokenizer = hf_files.tokenizer(self._path)
    if self._pieces:
      if _sentinels_within(tokenizer):
        raise ValueError(
          f"{self._path} ends in sentinels: pieces cannot be added after them"
        )
      known = tokenizer.get_vocab()
      present = [piece for piece in self._pieces if piece in known]
      if present or len(set(self._pieces)) < len(self._pieces):
        raise ValueError(
          "pieces must be new and distinct: "
          f"{', '.join(present) or self._pieces}"
        )
      tokenizer.add_tokens(list(self._pieces))
    return tokenizer

  @functools.cached_property
  def _continuing(self):
    return hf_files.continuing(self.tokenizer)

  @functools.cached_property
  def _drops_spaces(self) -> bool:
    return hf_files.drops_spaces(self.tokenizer, self._continuing)

  @functools.cached_property
  def offset(self) -> int:
    """Returns the difference between our ids and the file's: 0 or 1.

    It is 0 if the file's id 0 is neither text nor EOS, even if it is not
    padding (OPT's "<s>").
    """
    first = self.tokenizer.id_to_token(0)
    if first in self._eos_candidates:
      return 1
    added = self.tokenizer.get_added_tokens_decoder().get(0)
    is_special = added is not None and added.special
    return int(not is_special and first not in (*_PAD, self._unk, *_UNK))

  @functools.cached_property
  def sentinel_ids(self) -> tuple[int, ...]:
    """Returns the ids of <extra_id_0>, <extra_id_1>, ..."""
    if own := _sentinels_within(self.tokenizer):
      return tuple(i + self.offset for i in own)
    last = self._base_vocab_size + self._given_extra_ids - 1
    return tuple(last - number for number in range(self._given_extra_ids))

  @property
  def extra_ids(self) -> int:
    return len(self.sentinel_ids)

  @functools.cached_property
  def _base_vocab_size(self) -> int:
    """Returns the number of ids before added sentinels."""
    return max(self.tokenizer.get_vocab().values()) + 1 + self.offset

  @property
  def vocab_size(self) -> int:
    return max([self._base_vocab_size - 1, *self.sentinel_ids]) + 1

  @functools.cached_property
  def unused_ids(self) -> frozenset[int]:
    """Returns the ids below vocab_size that have no token."""
    known = {i + self.offset for i in self.tokenizer.get_vocab().values()}
    return frozenset(range(1, self._base_vocab_size)) - known

  @functools.cached_property
  def _eos_candidates(self) -> list[str]:
    return (
      [self._eos]
      if self._eos
      else hf_files.eos_candidates(self._path, self.tokenizer)
    )

  @functools.cached_property
  def eos_id(self) -> int | None:
    """Returns the id of EOS; None if the file has none."""
    if len(self._eos_candidates) > 1:
      raise ValueError(
        f"{self._path} has several tokens that may be the end of sequence, "
        f"{', '.join(self._eos_candidates)}: choose one (eos=...)"
      )
    found = self._first_id(self._eos_candidates)
    if found is None and self._eos_candidates:
      raise ValueError(
        f"{self._path} has no token {self._eos_candidates[0]}: set its end of "
        "sequence (eos=...)"
      )
    return found

  @functools.cached_property
  def start_id(self) -> int:
    """Returns the id of the decoder's start token."""
    if self._start is None:
      return 0
    found = self._first_id((self._start,))
    if found is None:
      raise ValueError(
        f"{self._path} has no token {self._start!r} to start from (start=...)"
      )
    return found

  @property
  def mask_token(self) -> str | None:
    """Returns how a masked token is written; None if it is a sentinel."""
    return self._mask

  @functools.cached_property
  def mask_id(self) -> int | None:
    """Returns the id of the mask token."""
    return self._first_id([self._mask] if self._mask else ())

  @functools.cached_property
  def _unk(self) -> str | None:
    return hf_files.unknown(self._path, self.tokenizer)

  @functools.cached_property
  def unk_id(self) -> int | None:
    return self._first_id([self._unk] if self._unk else _UNK)

  def _first_id(self, names: Sequence[str]) -> int | None:
    ids = map(self.tokenizer.token_to_id, names)
    return next((i + self.offset for i in ids if i is not None), None)

  def encode(self, s: str) -> Sequence[int]:
    """Returns the ids of a text, without EOS."""
    return self._encode(s)

  def _encode(self, s: str) -> Sequence[int]:
    text_files.check_text(s, "the text")
    numbers = [
      number
      for number in map(int, text_lib.SENTINEL.findall(s))
      if number < len(self.sentinel_ids)
    ]
    if not numbers:
      return self._ids(self.tokenizer, s)
    if _sentinels_within(self.tokenizer):
      expected = [self.sentinel_ids[number] for number in numbers]
      # mT5's sentinels begin with "▁", so each needs a space before it.
      for spelling in (s, text_lib.spaced(s, self.extra_ids, at_start=True)):
        ids = self._ids(self.tokenizer, spelling)
        if [i for i in ids if i in self._numbers] == expected:
          return ids
    return self._encode_parts(s)

  def _encode_parts(self, s: str) -> list[int]:
    """Encodes the texts between the sentinels separately."""
    ids, encode = [], functools.partial(self._ids, self.tokenizer)
    # text, number, text, ...
    text, *rest = text_lib.SENTINEL.split(s)
    for number, following in zip(rest[::2], rest[1::2], strict=True):
      if int(number) >= len(self.sentinel_ids):
        text += f"<extra_id_{number}>{following}"
        continue
      ids += encode(text.removesuffix(" "))
      ids.append(self.sentinel_ids[int(number)])
      text, encode = following, self._rest
    return ids + encode(text)

  def _rest(self, text: str) -> list[int]:
    """Encodes text that continues another text, possibly within a word."""
    word, others = text, ""
    if self._drops_spaces:
      # Only the first word continues a text; the others are encoded normally.
      word = re.match(r"\S*", text)[0]
      others = text[len(word) :]
    return self._ids(self._continuing, word) + self._ids(self.tokenizer, others)

  def _ids(self, tokenizer, text: str) -> list[int]:
    if not text:
      return []
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    # Text such as "<pad>" is dropped rather than encoded as padding.
    return [i + self.offset for i in ids if i or not self._first_is_padding]

  @functools.cached_property
  def _first_is_padding(self) -> bool:
    return not self.offset and self.tokenizer.id_to_token(0) in _PAD

  @functools.cached_property
  def _numbers(self) -> dict[int, int]:
    return {i: number for number, i in enumerate(self.sentinel_ids)}

  @functools.cached_property
  def special_ids(self) -> frozenset[int]:
    """Returns the ids of special tokens; decoded text has masks alone."""
    added = self.tokenizer.get_added_tokens_decoder()
    return frozenset(
      i + self.offset for i, token in added.items() if token.special
    )

  def _decode(self, ids) -> str:
    tokens = []
    for i in map(int, ids):
      if i in self._numbers:
        # Uses the file's spelling: mT5's sentinels begin with "▁".
        within = self.tokenizer.id_to_token(i - self.offset)
        tokens.append(within or f"<extra_id_{self._numbers[i]}>")
      elif self.offset <= i < self._base_vocab_size and (
        i == self.mask_id or i not in self.special_ids
      ):
        tokens.append(self.tokenizer.id_to_token(i - self.offset))
    tokens = [token for token in tokens if token is not None]
    decoder = self.tokenizer.decoder
    return decoder.decode(tokens) if decoder else " ".join(tokens)

  def decode(self, ids: Iterable[int]) -> str:
    """Decodes up to the first EOS, with sentinels as <extra_id_N>."""
    ids = [int(i) for i in ids]
    if self.eos_id in ids:
      ids = ids[: ids.index(self.eos_id)]
    return self._decode(ids)


def _sentinels_within(tokenizer) -> tuple[int, ...]:
  """Returns the file's ids of <extra_id_0>, <extra_id_1>, ..."""
  found = []
  while True:
    name = f"<extra_id_{len(found)}>"
    ids = map(tokenizer.token_to_id, (name, f"▁{name}"))
    first = next((i for i in ids if i is not None), None)
    if first is None:
      return tuple(found)
    found.append(first)
