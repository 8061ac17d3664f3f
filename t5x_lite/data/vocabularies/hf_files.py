"""Reads a tokenizer.json, vocab.txt or vocab.json, and the settings beside it.

tokenizer_config.json and special_tokens_map.json may declare special tokens
that are ordinary tokens, or have other flags, in tokenizer.json; as in
`transformers`, they override it. The EOS token is taken from the first of these
that has one:

  1. tokenizer_config.json's or special_tokens_map.json's "eos_token"
  2. the last token that tokenizer.json's post-processor appends to a text
  3. generation_config.json's or config.json's "eos_token_id"
  4. a special token with a common EOS name, such as </s>
  5. any token with such a name
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from t5x_lite.data.vocabularies import byte_bpe, word_piece

_EOS_NAMES = (
  "</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "[SEP]", "[EOS]",
)  # fmt: skip
_NAMED = (
  "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
  "mask_token",
)  # fmt: skip


def tokenizer(path: str) -> Any:
  """Returns the `tokenizers.Tokenizer` of a file.

  Args:
    path: of a tokenizer.json, a vocab.txt, or a vocab.json with merges.txt.

  Raises:
    ValueError: the file does not exist or cannot be read.
  """
  try:
    import tokenizers
  except ImportError:
    raise ValueError(
      f"reading {path} needs the package `tokenizers`: "
      "pip install 't5x_lite[hf]'"
    ) from None
  file = pathlib.Path(path)
  if not file.is_file():
    raise ValueError(f"no tokenizer at {path!r}")
  config = settings(path)
  try:
    if file.suffix == ".txt":
      texts = {name: content(config.get(name)) for name in _NAMED}
      found = word_piece.tokenizer(file, {**config, **texts})
    elif file.name == byte_bpe.NAME:
      found = byte_bpe.tokenizer(file, config)
    else:
      found = tokenizers.Tokenizer.from_file(path)
  except Exception as error:  # The package raises Exception itself.
    raise ValueError(f"cannot read {path}: {error}") from None
  found.no_truncation()
  found.no_padding()
  _add_configured(found, config)
  return found


def settings(path: str) -> Mapping[str, Any]:
  """Returns the settings of a tokenizer from the files in its folder."""
  config = _read_settings(path, "tokenizer_config.json")
  if "added_tokens_decoder" in config:
    return config
  # In older formats these settings are in a separate file.
  return config | _read_settings(path, "special_tokens_map.json")


def _add_configured(tokenizer: Any, config: Mapping[str, Any]) -> None:
  import tokenizers

  known = tokenizer.get_added_tokens_decoder()
  wanted = {}
  decoder = config.get("added_tokens_decoder", {})
  for i in sorted(decoder, key=int):
    token = tokenizers.AddedToken(**decoder[i])
    if repr(known.get(int(i))) != repr(token):
      wanted[token.content] = token
  extra = config.get("extra_special_tokens") or config.get(
    "additional_special_tokens"
  )
  extra = extra.values() if isinstance(extra, Mapping) else extra or ()
  # Tokens that tokenizer.json lacks have no row in the model's embedding
  # either.
  named = [
    token
    for token in map(config.get, _NAMED)
    if token and tokenizer.token_to_id(content(token)) is not None
  ]
  present = {token.content for token in known.values()} | wanted.keys()
  for token in (*named, *extra):
    if content(token) not in present:
      flags = token if isinstance(token, Mapping) else {"content": token}
      flags = {k: v for k, v in flags.items() if not k.startswith("__")}
      flags = {"normalized": False} | flags | {"special": True}
      wanted.setdefault(content(token), tokenizers.AddedToken(**flags))
  if wanted:
    tokenizer.add_tokens(list(wanted.values()))


def content(token: str | Mapping[str, Any] | None) -> str | None:
  """Returns the text of a token, which may be an object with flags."""
  return token["content"] if isinstance(token, Mapping) else token


def eos_candidates(path: str, tokenizer: Any) -> list[str]:
  """Returns the candidates for EOS, by the rules in the module's docstring.

  Returns:
    One token, none if the vocabulary has no EOS, or several if it is ambiguous.
  """
  named = content(settings(path).get("eos_token"))
  if named is not None:
    return [named]
  processor = tokenizer.post_processor
  last = processor and _appended_token(json.loads(processor.__getstate__()))
  if last is not None:
    return [last]
  for name in ("generation_config.json", "config.json"):
    ids = _read_settings(path, name).get("eos_token_id")
    if ids is not None:
      tokens = map(
        tokenizer.id_to_token, ids if isinstance(ids, list) else [ids]
      )
      return [token for token in tokens if token is not None]
  special = {
    token.content
    for token in tokenizer.get_added_tokens_decoder().values()
    if token.special
  }
  known = tokenizer.get_vocab()
  for names in (special, known):
    if found := [name for name in _EOS_NAMES if name in names]:
      return found
  return []


def _appended_token(processor: Mapping[str, Any] | None) -> str | None:
  """Returns the special token that a post-processor appends to a text."""
  kind = processor and processor["type"]
  if kind == "Sequence":
    found = [_appended_token(part) for part in processor["processors"]]
    return next((token for token in found if token is not None), None)
  if kind in ("BertProcessing", "RobertaProcessing"):
    return processor["sep"][0]
  if kind == "TemplateProcessing" and processor["single"]:
    return processor["single"][-1].get("SpecialToken", {}).get("id")
  return None


def unknown(path: str, tokenizer: Any) -> str | None:
  """Returns the unknown token, or None."""
  named = content(settings(path).get("unk_token"))
  if named is None:
    named = getattr(tokenizer.model, "unk_token", None)
  if named is None and getattr(tokenizer.model, "unk_id", None) is not None:
    named = tokenizer.id_to_token(tokenizer.model.unk_id)
  return named


def continuing(tokenizer: Any) -> Any:
  """Returns the tokenizer for text that continues another text.

  It does not put a space before the text, as add_prefix_space, Metaspace and
  LLaMA's Prepend do.
  """
  described = _drop_prefix_space(json.loads(tokenizer.to_str()))
  return type(tokenizer).from_str(json.dumps(described))


def drops_spaces(tokenizer: Any, continuing: Any) -> bool:
  """Returns whether the `continuing` tokenizer loses the space in " a".

  XLM-R's tokenizer splits at white space and DeBERTa's strips it. Both mark
  words with "▁" only afterwards, so without a prefix space " a" and "a" are the
  same.
  """
  word = _words(continuing, "a")
  return _words(continuing, " a") == word != _words(tokenizer, "a")


def _words(tokenizer: Any, text: str) -> list[str]:
  if tokenizer.normalizer is not None:
    text = tokenizer.normalizer.normalize_str(text)
  if tokenizer.pre_tokenizer is None:
    return [text]
  return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def _drop_prefix_space(part: Any) -> Any:
  if isinstance(part, list):
    kept = [x for x in part if not _is_prepend(x)]
    return [_drop_prefix_space(x) for x in kept]
  if not isinstance(part, dict):
    return part
  changed = {}
  for name, value in part.items():
    if name in ("model", "added_tokens", "decoder"):
      changed[name] = value
    elif name == "add_prefix_space":
      changed[name] = False
    elif name == "prepend_scheme":
      changed[name] = "never"
    else:
      changed[name] = None if _is_prepend(value) else _drop_prefix_space(value)
  return changed


def _is_prepend(part: Any) -> bool:
  return isinstance(part, dict) and part.get("type") == "Prepend"


def _read_settings(path: str, name: str) -> dict[str, Any]:
  """Returns a JSON object from a file in tokenizer.json's folder, or {}."""
  file = pathlib.Path(path).with_name(name)
  if not file.is_file():
    return {}
  try:
    found = json.loads(file.read_text())
  except ValueError as error:
    raise ValueError(f"cannot read {file}: {error}") from None
  if not isinstance(found, dict):
    raise ValueError(f"cannot read {file}: it must hold a JSON object")
  return found
