"""Reads the tokenizer of a Hugging Face directory, and builds it."""

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from t5x_lite import row_formats
from t5x_lite.data import sentinels
from t5x_lite.data.vocabularies import (
  converted,
  sentencepiece_models,
  tokenizer_json,
)
from t5x_lite.interop import generation as generation_lib
from t5x_lite.interop import tokenizer_files
from t5x_lite.row_formats import RowFormat

_T5_SENTINELS = 100  # If no file says: mT5's says 0, its model has its own.
_MASKS = ("[MASK]", "<mask>")
_BYTES = {"<pad>": 0, "</s>": 1, "<unk>": 2}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """Describes a vocabulary.

  Attributes:
    kind: one of recorded_vocabulary.KINDS.
    path: of its file; None for bytes.
    settings: of its class, besides the path.
    around: the ids around a text, arguments of `converted.Converted`.
    is_plain: whether `around` has what the class has by itself.
    has_sentinels: whether it has sentinels.
  """

  kind: str
  path: pathlib.Path | None
  settings: Mapping[str, object]
  around: Mapping[str, object]
  is_plain: bool
  has_sentinels: bool

  @property
  def eos_id(self) -> int:
    """Returns the id that ends its texts."""
    return self.around["eos_id"]


def find(
  folder: pathlib.Path,
  generation: generation_lib.Generation,
  *,
  row_format: RowFormat,
  ignore: Collection[str],
) -> Vocabulary | None:
  """Reads the tokenizer in a folder, and the special tokens around texts.

  Args:
    folder: the folder with the tokenizer's files.
    generation: the settings of config.json and generation_config.json.
    row_format: the model's.
    ignore: options not to read.

  Returns:
    None if there is no usable vocabulary: none of a supported type; a language
    model's without EOS; or one whose id 0 is text, as its ids here would differ
    from the rows of the embedding.

  Raises:
    ValueError: the vocabulary lacks a special token, or the special tokens
      around a text are not supported.
  """
  is_encoder_decoder = row_format is row_formats.ENCODER_DECODER
  files = tokenizer_files.read(
    folder, is_encoder_decoder=is_encoder_decoder, ignore=ignore
  )
  ends = generation.constraints.ends
  if files is None or not (files.after or files.eos or ends):
    return None
  kind = _KINDS[files.path.suffix if files.path else ""]
  table = kind(files, row_format)
  if table is None:
    return None
  if row_format.shares_row:
    around = _around_text(files, table, ends)
  else:
    around = _around_whole(files, table)
    around["start_id"] = generation.start_id if row_format.generates else 0
  around = {name: value for name, value in around.items() if value is not False}
  return Vocabulary(
    kind=table.kind,
    path=files.path,
    settings=table.settings,
    around=around,
    is_plain=around == table.plain,
    has_sentinels=table.has_sentinels,
  )


@dataclasses.dataclass(frozen=True)
class _Table:
  """Describes a vocabulary's class, and looks up ids of special tokens.

  Attributes:
    kind: as in recorded_vocabulary.py.
    settings: the arguments of its class, but for the path.
    find: maps a token to its id, or None.
    plain: the default special ids around texts.
    has_sentinels: whether it has sentinels.
    where: its name in error messages.
  """

  kind: str
  settings: Mapping[str, object]
  find: Callable[[str], int | None]
  plain: Mapping[str, object] | None
  has_sentinels: bool
  where: str

  def id(self, name: str, what: str) -> int:
    found = self.find(name)
    if found is None:
      raise ValueError(
        f"{self.where} has no token {name!r}, which is {what} in the files"
        f" next to it: correct {what} in tokenizer_config.json or"
        " special_tokens_map.json"
      )
    return found


def _around_whole(files, table) -> dict[str, object]:
  """Returns the special ids around each text that an encoder reads."""
  if len(files.before) > 1 or len(files.after) != 1:
    raise ValueError(
      f"{table.where} puts {list(files.before)} before and"
      f" {list(files.after)} after a text, which is not supported for an"
      " encoder: at most one token before, and one (EOS) after"
    )
  around = {"eos_id": table.id(files.after[0], "eos_token")}
  if files.before:
    around["begin_id"] = table.id(files.before[0], "bos_token")
  return around


def _around_text(files, table, ends) -> dict[str, object]:
  """Returns the special ids around the text of a language model."""
  if len(files.before) > 2 or files.after:
    json = table.where.endswith(".json")
    option = "post_processor" if json else "add_eos_token"
    raise ValueError(
      f"{table.where} puts {list(files.before)} before and"
      f" {list(files.after)} after a text, which is not supported for a"
      " language model: at most two tokens before, and none after; to leave"
      f" them out: --ignore={option}"
    )
  eos = table.id(files.eos, "eos_token") if files.eos else ends[0]
  start, *second = files.before or (files.bos,)
  around = {
    "start_id": table.id(start, "bos_token") if start else eos,
    "eos_id": eos,
    "bare_prompts": not files.before,
  }
  if second:  # GLM-4's [gMASK] <sop>.
    around["begin_id"] = table.id(second[0], "post_processor")
  return around


def _bytes(files, row_format) -> _Table:
  del row_format
  plain = {"start_id": 0, "eos_id": _BYTES["</s>"]}
  return _Table("bytes", {}, _BYTES.get, plain, True, "ByT5's vocabulary")


def _sentencepiece(files, row_format) -> _Table:
  is_encoder_decoder = row_format is row_formats.ENCODER_DECODER
  model = sentencepiece_models.load(files.path.read_bytes(), str(files.path))
  size = model.GetPieceSize()
  extra_ids = files.extra_ids
  if extra_ids is None:
    extra_ids = _T5_SENTINELS if is_encoder_decoder else 0
  pieces = {
    token: i
    for i, token in sorted(files.added.items())
    if i >= size and not sentinels.SENTINEL.fullmatch(token.removeprefix("▁"))
  }
  if pieces and (
    extra_ids or list(pieces.values()) != list(range(size, size + len(pieces)))
  ):
    token, i = next(iter(pieces.items()))
    raise ValueError(
      f"{files.path} has {size} ids, and the added token {token!r} has id {i}:"
      " added tokens must come right after the model's own, without sentinels;"
      " use a tokenizer.json instead"
    )

  def find(name):
    found = model.PieceToId(name)
    return found if model.IdToPiece(found) == name else pieces.get(name)

  settings = {"extra_ids": extra_ids}
  if pieces:
    settings["pieces"] = list(pieces)
  plain = {"start_id": 0, "eos_id": model.eos_id()}
  return _Table(
    "sentencepiece", settings, find, plain, is_encoder_decoder, str(files.path)
  )


def _huggingface(files, row_format) -> _Table | None:
  # Built here only to look up ids and the offset.
  eos = files.after[-1] if files.after else files.eos
  settings = {"extra_ids": 0}
  if eos is not None:
    settings["eos"] = eos
  vocabulary = tokenizer_json.TokenizerJson(str(files.path), **settings)
  find = vocabulary.tokenizer.token_to_id
  if not row_format.generates:
    # Published files of BERT and RoBERTa do not name their mask.
    unnamed = (token for token in _MASKS if find(token) is not None)
    if mask := files.mask or next(unnamed, None):
      settings["mask"] = mask
  missing = [token for token in files.added.values() if find(token) is None]
  if missing:
    raise ValueError(
      f"tokenizer_config.json adds the token {missing[0]!r}, which"
      f" {files.path} does not have: save the tokenizer again"
    )
  if eos is not None and find(eos) is not None and vocabulary.offset:
    return None
  table = _Table(
    "tokenizer_json",
    settings,
    find,
    None,
    vocabulary.extra_ids > 0,
    str(files.path),
  )
  if "mask" in settings:
    table.id(settings["mask"], "mask_token")
  return table


_KINDS = {
  "": _bytes, ".model": _sentencepiece, ".json": _huggingface,
  ".txt": _huggingface,
}  # fmt: skip


def build(found: Vocabulary) -> Any:
  """Returns the vocabulary that was found, in plain Python."""
  if found.kind == "bytes":
    return converted.Bytes(**found.around)
  path, settings = str(found.path), dict(found.settings)
  if found.kind == "tokenizer_json":
    return converted.TokenizerJson(path, **settings, **found.around)
  extra_ids = settings.pop("extra_ids")
  model, num_sentinels = sentencepiece_models.prepare(
    found.path.read_bytes(), path, tuple(settings.get("pieces", ()))
  )
  if not num_sentinels:
    model = sentencepiece_models.with_sentinels(model, extra_ids)
  vocabulary = converted.SentencePiece(model, path=path, **found.around)
  sentinels.check_padding(vocabulary)
  return vocabulary
