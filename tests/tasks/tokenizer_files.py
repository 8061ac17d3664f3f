"""Makes tokenizer.json files of the kinds that there are, by `tokenizers`."""

import json

import tokenizers
from tokenizers import (
  AddedToken,
  Regex,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
  trainers,
)

TEXT = [
  "the cat sat on the mat, and the dog ran; it wasn't 1234 metres.",
  "Unable to tell: a list is <b>bold</b>  with two  spaces\nand lines",
  "Zürich naïve café 漢字 and 7 of 12",
] * 9
SENTINELS = [f"<extra_id_{i}>" for i in reversed(range(5))]

# Text as it comes: words, case, digits, white space, other scripts, unknowns.
TEXTS = [
  "the cat", " the cat", "the cat ", "  two  spaces  ", "", " ", "\n",
  "a\nb", "a \n b", "\tTab", "The CAT sat", "wasn't it?", "1234", "a1b22c",
  "on the mat.", "...", "Zürich", "naïve café", "漢字", "qqq zzz", "Q!",
  "🙂 smile", "<b>bold</b>", "unable", "▁under", "a▁b", "e\u0301", "ﬁne ①",
  "the<new>cat", "the <new> cat", "a <left> b", "a<left>b", "a  <right>  b",
  "<word> a", "a<word>b", "a <word> b", "NEW new", "the\u00a0cat", "x\u200by",
  "and the dog ran; it sat on the mat, 7 of 12",
]  # fmt: skip

TEMPLATE = processors.TemplateProcessing


def _train(tokenizer, trainer):
  tokenizer.train_from_iterator(TEXT, trainer)
  return tokenizer


def byte_level(*, add_prefix_space=False, first=()):
  """GPT-2's kind."""
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
    add_prefix_space=add_prefix_space
  )
  tokenizer.decoder = decoders.ByteLevel()
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  _train(
    tokenizer,
    trainers.BpeTrainer(
      vocab_size=300, initial_alphabet=alphabet, special_tokens=list(first)
    ),
  )
  tokenizer.add_special_tokens(["<|endoftext|>"])
  return tokenizer


def byte_level_with_prefix():
  """RoBERTa's kind, as set to read words."""
  tokenizer = byte_level(
    add_prefix_space=True, first=["<s>", "<pad>", "</s>", "<unk>"]
  )
  tokenizer.post_processor = processors.RobertaProcessing(
    ("</s>", 2), ("<s>", 0), add_prefix_space=True
  )
  return tokenizer


def split_digits():
  """LLaMA 3's kind: digits apart, no word across a change of kind."""
  tokenizer = byte_level()
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(Regex(r"\d| ?\p{L}+|\s+|[^\s\p{L}]"), "isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  return tokenizer


def word_piece(*, lowercase):
  """BERT's kind."""
  tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
  tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = decoders.WordPiece()
  special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  _train(
    tokenizer, trainers.WordPieceTrainer(vocab_size=90, special_tokens=special)
  )
  tokenizer.post_processor = TEMPLATE(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
  )
  return tokenizer


def unigram(pieces, *, unk_id, split=True):
  """Makes a Unigram of given pieces and of single characters."""
  known = [*pieces, *(f"▁{w}" for w in ("the", "cat", "sat", "on", "un"))]
  characters = sorted({c for text in TEXT for c in text if not c.isspace()})
  known += ["▁", "able", "ing", *characters]
  known = list(dict.fromkeys(known))
  scores = [(piece, -2.0 - 0.01 * n) for n, piece in enumerate(known)]
  tokenizer = tokenizers.Tokenizer(models.Unigram(scores, unk_id=unk_id))
  tokenizer.normalizer = normalizers.Sequence(
    [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
  )
  metaspace = pre_tokenizers.Metaspace(prepend_scheme="always")
  tokenizer.pre_tokenizer = (
    pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    if split
    else metaspace
  )
  tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
  return tokenizer


def xlm_r_like():
  """A mark before each word, the white space is gone; no sentinels."""
  special = ["<s>", "<pad>", "</s>", "<unk>"]
  tokenizer = unigram(special, unk_id=3)
  tokenizer.add_special_tokens(special)
  tokenizer.post_processor = TEMPLATE(
    single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
  )
  return tokenizer


def deberta_like():
  """White space goes from both ends of a text, then it gets a mark."""
  special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
  tokenizer = unigram(special, unk_id=3, split=False)
  tokenizer.add_special_tokens(special)
  tokenizer.normalizer = normalizers.Sequence(
    [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
  )
  return tokenizer


def t5_like():
  """Sentinels are added tokens at the end, </s> comes after each text."""
  tokenizer = unigram(["<pad>", "</s>", "<unk>"], unk_id=2)
  tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>", *SENTINELS])
  tokenizer.post_processor = TEMPLATE(
    single="$A </s>", special_tokens=[("</s>", 1)]
  )
  return tokenizer


def t5_like_with_flags():
  """Sentinels take the white space beside them, and a token comes later."""
  tokenizer = unigram(["<pad>", "</s>", "<unk>"], unk_id=2, split=False)
  tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
  tokenizer.add_special_tokens(
    [AddedToken(name, lstrip=True, rstrip=True) for name in SENTINELS]
  )
  tokenizer.add_tokens(["<new>"])
  tokenizer.post_processor = TEMPLATE(
    single="$A </s>", special_tokens=[("</s>", 1)]
  )
  return tokenizer


def mt5_like():
  """Sentinels are pieces with the mark of a space, and a token comes later."""
  names = [f"▁{name}" for name in SENTINELS]
  tokenizer = unigram(["<pad>", "</s>", "<unk>", *names], unk_id=2)
  # As in mT5, no piece is likelier than its sentinels.
  state = json.loads(tokenizer.to_str())
  state["model"]["vocab"] = [
    [piece, 0.0 if piece in names else score]
    for piece, score in state["model"]["vocab"]
  ]
  tokenizer = tokenizers.Tokenizer.from_str(json.dumps(state))
  tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
  tokenizer.add_tokens(["<new>"])
  tokenizer.post_processor = TEMPLATE(
    single="$A </s>", special_tokens=[("</s>", 1)]
  )
  return tokenizer


def _spaces_as_pieces(special, *, prefix):
  """BPE over SentencePiece's spelling, with bytes for what is unknown."""
  tokenizer = tokenizers.Tokenizer(
    models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True)
  )
  steps = [normalizers.Replace(" ", "▁")]
  if prefix:
    steps = [normalizers.Prepend("▁"), *steps]
  tokenizer.normalizer = normalizers.Sequence(steps)
  # Trained on words; in use, merges see the whole text.
  tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
  bytes_ = [f"<0x{i:02X}>" for i in range(256)]
  _train(
    tokenizer,
    trainers.BpeTrainer(vocab_size=400, special_tokens=[*special, *bytes_]),
  )
  state = json.loads(tokenizer.to_str())
  state["pre_tokenizer"] = None
  state["added_tokens"] = [
    token for token in state["added_tokens"] if token["content"] in special
  ]
  tokenizer = tokenizers.Tokenizer.from_str(json.dumps(state))
  strip = [decoders.Strip(" ", 1, 0)] if prefix else []
  tokenizer.decoder = decoders.Sequence(
    [
      decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
      *strip,
    ]
  )  # fmt: skip
  return tokenizer


def llama_like():
  """No padding: unk is 0; a text begins with <s> and ends with nothing."""
  special = ["<unk>", "<s>", "</s>"]
  tokenizer = _spaces_as_pieces(special, prefix=True)
  tokenizer.post_processor = TEMPLATE(
    single="<s> $A", special_tokens=[("<s>", 1)]
  )
  return tokenizer


def gemma_like():
  """<eos> ends a text; </s> is an ordinary token, of HTML."""
  special = ["<pad>", "<eos>", "<bos>", "<unk>"]
  tokenizer = _spaces_as_pieces(special, prefix=False)
  tokenizer.add_tokens(["<s>", "</s>", "<b>", "</b>"])
  tokenizer.post_processor = TEMPLATE(
    single="<bos> $A", special_tokens=[("<bos>", 2)]
  )
  return tokenizer


def word_level():
  """Words as they are, unknown ones at id 0, no end."""
  tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token="[UNK]"))
  tokenizer.normalizer = normalizers.Sequence(
    [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  return _train(tokenizer, trainers.WordLevelTrainer(special_tokens=["[UNK]"]))


def with_flags():
  """Added tokens with each of the flags."""
  tokenizer = byte_level()
  tokenizer.add_tokens(
    [
      AddedToken("<new>", normalized=True),
      AddedToken("<left>", lstrip=True),
      AddedToken("<right>", rstrip=True),
      AddedToken("<word>", single_word=True),
    ]
  )
  return tokenizer


KINDS = {
  "byte_level": byte_level,
  "byte_level_with_prefix": byte_level_with_prefix,
  "split_digits": split_digits,
  "word_piece_cased": lambda: word_piece(lowercase=False),
  "word_piece_uncased": lambda: word_piece(lowercase=True),
  "unigram_metaspace": lambda: unigram(["<unk>"], unk_id=0, split=False),
  "xlm_r_like": xlm_r_like,
  "deberta_like": deberta_like,
  "t5_like": t5_like,
  "t5_like_with_flags": t5_like_with_flags,
  "mt5_like": mt5_like,
  "llama_like": llama_like,
  "gemma_like": gemma_like,
  "word_level": word_level,
  "with_flags": with_flags,
}


def write(kind, folder, **beside):
  """Writes tokenizer.json, and JSON files beside it; returns its path."""
  path = folder / "tokenizer.json"
  KINDS[kind]().save(str(path))
  for name, content in beside.items():
    (folder / f"{name}.json").write_text(json.dumps(content))
  return str(path)
