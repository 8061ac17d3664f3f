"""Builds the tokenizer of vocab.json and merges.txt, GPT-2's format.

Byte-level byte pair encoding (Radford et al. 2019), as files were published
before tokenizer.json: vocab.json has the id of each token, and merges.txt the
pairs in the order in which they are merged. RoBERTa, BART and OPT use it too.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

NAME, MERGES = "vocab.json", "merges.txt"
# What the settings need not name.
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>")


def tokenizer(path: pathlib.Path, config: Mapping[str, Any]) -> Any:
  """Returns the `tokenizers.Tokenizer` of a vocab.json.

  Args:
    path: of the file; merges.txt is beside it.
    config: the settings of tokenizer_config.json.
  """
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers

  ids, merges = models.BPE.read_file(str(path), str(path.with_name(MERGES)))
  found = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges))
  found.pre_tokenizer = pre_tokenizers.ByteLevel(
    add_prefix_space=config.get("add_prefix_space") or False
  )
  found.decoder = decoders.ByteLevel()
  found.add_special_tokens([token for token in _SPECIAL if token in ids])
  return found
