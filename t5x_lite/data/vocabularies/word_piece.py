"""Builds the tokenizer of a vocab.txt, BERT's format before tokenizer.json.

The file has a token per line; a token that continues a word begins with "##".
What tokenizer_config.json does not say is as in BERT (Devlin et al. 2019,
arXiv:1810.04805), and as `transformers` has it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

_SPECIAL = {
  "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]",
  "unk_token": "[UNK]", "mask_token": "[MASK]",
}  # fmt: skip


def tokenizer(path: pathlib.Path, config: Mapping[str, Any]) -> Any:
  """Returns the `tokenizers.Tokenizer` of a vocab.txt.

  Args:
    path: of the file.
    config: the settings of tokenizer_config.json; special tokens by their text.
  """
  import tokenizers
  from tokenizers import decoders, models, normalizers, pre_tokenizers

  names = {name: config.get(name) or token for name, token in _SPECIAL.items()}
  ids = models.WordPiece.read_file(str(path))
  found = tokenizers.Tokenizer(
    models.WordPiece(ids, unk_token=names["unk_token"])
  )
  found.normalizer = normalizers.BertNormalizer(
    clean_text=True,
    handle_chinese_chars=config.get("tokenize_chinese_chars", True),
    strip_accents=config.get("strip_accents"),
    lowercase=config.get("do_lower_case", True),
  )
  found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  found.decoder = decoders.WordPiece(prefix="##")
  found.add_special_tokens([x for x in names.values() if x in ids])
  return found
