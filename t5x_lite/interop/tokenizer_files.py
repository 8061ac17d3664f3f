"""Reads which tokens a Hugging Face tokenizer puts around a text.

    tokenizer.json            its post-processor says: <s> $A </s>
    vocab.txt                 [CLS] $A [SEP]
    vocab.json, merges.txt    RoBERTa and BART: <s> $A </s>
                              GPT-2, GPT-J and OPT: add_bos_token: </s> $A
    tokenizer.model           add_bos_token and add_eos_token: <s> $A
    spiece.model, ByT5        $A </s>

as `transformers` 5 reads them; the vocabulary itself is not read here. Names of
special tokens stand in tokenizer_config.json and special_tokens_map.json, which
wins where the former has no added_tokens_decoder.
"""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from t5x_lite.files import json_text
from t5x_lite.interop import config as config_json

SETTINGS = "tokenizer_config.json"
_SPECIAL, _ADDED = "special_tokens_map.json", "added_tokens.json"
# Whose texts stand between <s> and </s> where no tokenizer.json says it.
_BETWEEN = ("roberta", "bart")
# Whose class builds the tokenizer anew, and leaves the post-processor out.
_WITHOUT_PROCESSOR = "GPTNeoXTokenizer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
  """A tokenizer's file, and what stands around a text.

  Attributes:
    path: the vocabulary's file; None for ByT5's bytes.
    bos, eos, mask: names of tokens; None where no file names one.
    before, after: names of the tokens that are put before and after a text.
    added: id -> token, of those that come in other files than the vocabulary.
    extra_ids: sentinels beyond those of the file, where the settings say.
  """

  path: pathlib.Path | None
  bos: str | None
  eos: str | None
  mask: str | None
  before: tuple[str, ...]
  after: tuple[str, ...]
  added: Mapping[int, str] = dataclasses.field(default_factory=dict)
  extra_ids: int | None = None


def read(
  directory: pathlib.Path,
  *,
  is_encoder_decoder: bool,
  ignore: Collection[str] = (),
) -> TokenizerFiles | None:
  """Reads the files of the tokenizer in a directory.

  Args:
    directory: where they are, beside config.json perhaps.
    is_encoder_decoder: whether the model is one.
    ignore: options that are not to be read.

  Returns:
    None where there is no vocabulary of a known kind.

  Raises:
    ValueError: a file that cannot be read, or a post-processor that is not
      supported.
  """
  settings = _object(directory / SETTINGS)
  model_type = _object(directory / config_json.NAME).get("model_type")
  names = dict(settings)
  if "added_tokens_decoder" not in settings:
    names |= _object(directory / _SPECIAL)
  bos, eos, mask = (
    _content(names.get(f"{name}_token")) for name in ("bos", "eos", "mask")
  )
  added = {
    int(i): _content(token)
    for i, token in settings.get("added_tokens_decoder", {}).items()
  } or {i: token for token, i in _object(directory / _ADDED).items()}
  found = {"bos": bos, "eos": eos, "mask": mask, "added": added}
  found["extra_ids"] = settings.get("extra_ids")
  kind = settings.get("tokenizer_class", "").removesuffix("Fast")
  path = directory / "spiece.model"
  if is_encoder_decoder and (path.exists() or kind == "ByT5Tokenizer"):
    path = path if path.exists() else None
    found |= {"before": (), "after": (eos or "</s>",)}
    return TokenizerFiles(path=path, **found)
  path = directory / "tokenizer.json"
  if path.exists():
    processor = _object(path).get("post_processor")
    builds_anew = kind == _WITHOUT_PROCESSOR or (
      not kind and model_type == "gpt_neox"
    )
    if builds_anew or "post_processor" in ignore:
      processor = None
    before, after = _around(processor, path)
    return TokenizerFiles(path=path, before=before, after=after, **found)
  path = directory / "vocab.txt"
  if path.exists():  # BERT's, whose names are the defaults.
    before, after = (
      _content(names.get(f"{name}_token")) or f"[{name.upper()}]"
      for name in ("cls", "sep")
    )
    return TokenizerFiles(path=path, before=(before,), after=(after,), **found)
  path = directory / "vocab.json"
  if path.exists() and (directory / "merges.txt").exists():
    if (kind.removesuffix("Tokenizer").lower() or model_type) in _BETWEEN:
      before = (_content(names.get("cls_token")) or "<s>",)
      after = (_content(names.get("sep_token")) or "</s>",)
    else:
      adds_bos = settings.get("add_bos_token") and "add_bos_token" not in ignore
      before, after = (bos or "<|endoftext|>",) if adds_bos else (), ()
    return TokenizerFiles(path=path, before=before, after=after, **found)
  path = directory / "tokenizer.model"
  if path.exists() and not is_encoder_decoder:
    # The defaults are those that the classes of LLaMA and Gemma document.
    adds = {"add_bos_token": True, "add_eos_token": False}
    adds |= {k: v for k, v in settings.items() if k in adds and k not in ignore}
    return TokenizerFiles(
      path=path,
      before=(bos,) if adds["add_bos_token"] and bos else (),
      after=(eos,) if adds["add_eos_token"] and eos else (),
      **found,
    )
  return None


def options(directory: pathlib.Path) -> set[str]:
  """Returns the names that `read` may ignore: those that the files say."""
  said = _object(directory / SETTINGS).keys() & {
    "add_bos_token", "add_eos_token"
  }  # fmt: skip
  return said | _object(directory / "tokenizer.json").keys() & {
    "post_processor"
  }


def _object(path) -> dict[str, Any]:
  """Returns what a file says; null says nothing."""
  found = json_text.read(path) if path.exists() else {}
  return {name: value for name, value in found.items() if value is not None}


def _content(value) -> str | None:
  """Reads a token, which may be an object with its settings."""
  return value["content"] if isinstance(value, dict) else value


def _around(processor, path) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Returns the tokens that a post-processor puts before and after a text."""
  match processor:
    case None | {"type": "ByteLevel"}:
      return (), ()
    case {"type": "TemplateProcessing", "single": single}:
      texts = [i for i, piece in enumerate(single) if "Sequence" in piece]
      if len(texts) == 1:
        tokens = processor["special_tokens"]
        sides = single[: texts[0]], single[texts[0] + 1 :]
        before, after = (
          tuple(
            token
            for piece in side
            for token in tokens[piece["SpecialToken"]["id"]]["tokens"]
          )
          for side in sides
        )
        return before, after
    case {"type": "RobertaProcessing" | "BertProcessing"}:
      return (processor["cls"][0],), (processor["sep"][0],)
    case {"type": "Sequence", "processors": processors}:
      before, after = (), ()
      for each in processors:
        outer = _around(each, path)
        before, after = outer[0] + before, after + outer[1]
      return before, after
  raise ValueError(
    f"{path}: post_processor is {processor.get('type')!r}, which is not"
    " supported: only TemplateProcessing, RobertaProcessing, BertProcessing and"
    " ByteLevel; go without: --ignore=post_processor"
  )
