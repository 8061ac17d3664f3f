"""Small vocabularies of each kind, over text in several scripts."""

import io
import json

import sentencepiece
import seqio
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from tasks import sources, vocabularies
from tasks.hf_vocabulary import HuggingFaceTokenizer

_ENGLISH = "the cat sat on the mat. It said nothing! She asked: Why not? café"
TEXT = (
  f"Motörhead, naïve façade; {_ENGLISH} “Why not?” \n\nКошка спит. Кто там? "
  "猫が寝ています。静かだ！ بعد ذلك؟ نعم. "
  "बिल्ली सो रही है। हाँ। 👩‍💻 x\N{COMBINING ACUTE ACCENT}."
)


def _sentencepiece(path, **settings):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([_ENGLISH] * 9),
    model_writer=model, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    hard_vocab_limit=False, minloglevel=2, **settings,
  )  # fmt: skip
  path.write_bytes(model.getvalue())
  return vocabularies.SentencePiece(str(path))


def trained(path):
  """The project's own: BPE with byte fallback that changes nothing."""
  del path
  return vocabularies.TrainedSentencePiece(
    [sources.MemorySource("kinds", {"train": {"text": [TEXT] * 9}})]
  )


def t5_like(path):
  """Normalises, joins spaces and knows few characters: the others are unk."""
  return _sentencepiece(path, vocab_size=60, normalization_rule_name="nmt_nfkc")


def llama_like(path):
  """Byte fallback, and a space before each text."""
  return _sentencepiece(
    path, vocab_size=330, model_type="bpe", byte_fallback=True,
    normalization_rule_name="identity", remove_extra_whitespaces=False,
  )  # fmt: skip


def gemma_like(path):
  """Byte fallback, and no space before a text."""
  return _sentencepiece(
    path, vocab_size=330, byte_fallback=True, add_dummy_prefix=False,
    normalization_rule_name="identity", remove_extra_whitespaces=False,
  )  # fmt: skip


def _json(path, tokenizer, trainer):
  tokenizer.train_from_iterator([TEXT] * 9, trainer)
  content = json.loads(tokenizer.to_str())
  # Trainers take bytes as special tokens alone; in LLaMA's file they are text.
  content["added_tokens"] = [
    token
    for token in content["added_tokens"]
    if not token["content"].startswith("<0x")
  ]
  path.write_text(json.dumps(content))
  return HuggingFaceTokenizer(str(path), extra_ids=9)


def byte_level(path):
  """GPT-2's."""
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=330,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    special_tokens=["<|endoftext|>"],
  )
  return _json(path, tokenizer, trainer)


def word_piece(path):
  """BERT's: lower case, without accents."""
  tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
  tokenizer.normalizer = normalizers.BertNormalizer()
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = decoders.WordPiece()
  trainer = trainers.WordPieceTrainer(
    vocab_size=90, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
  )
  return _json(path, tokenizer, trainer)


def metaspace(path):
  """LLaMA's as tokenizer.json."""
  tokenizer = tokenizers.Tokenizer(
    models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  tokenizer.decoder = decoders.Sequence([
    decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
    decoders.Strip(" ", 1, 0),
  ])  # fmt: skip
  trainer = trainers.BpeTrainer(
    vocab_size=340, limit_alphabet=25,
    special_tokens=[
      "<pad>", "</s>", "<unk>", *(f"<0x{i:02X}>" for i in range(256)),
    ],
  )  # fmt: skip
  return _json(path, tokenizer, trainer)


def our_bytes(path):
  """ByT5's, with sentinels in text."""
  del path
  return vocabularies.Bytes()


def plain_bytes(path):
  """seqio's own, which know no sentinels in text."""
  del path
  return seqio.ByteVocabulary(extra_ids=9)


KINDS = (
  trained, t5_like, llama_like, gemma_like, byte_level, word_piece, metaspace,
  our_bytes, plain_bytes,
)  # fmt: skip
