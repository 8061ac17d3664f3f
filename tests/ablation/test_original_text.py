"""Bytes are those of the original text, whatever a tokenizer makes of it."""

import io
import math

import jax
import numpy as np
import pytest
import sentencepiece
import seqio
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from t5x_lite.ablation import measures
from t5x_lite.ablation.measures import Document, Measures
from t5x_lite.ablation.original_text import OriginalText, common_subsequence
from t5x_lite.data.resolved_task import resolve
from tasks import text, vocabularies
from tasks.causal_lm import CausalLM
from tasks.hf_vocabulary import HuggingFaceTokenizer
from tests import tiny
from tests.tasks import tokenizer_files

# Full-width letters, a ligature, a combining accent, several spaces, a line's
# end, letters of three and four bytes, and what no vocabulary here knows.
TEXTS = [
  "The  ﬁne \t cafe\u0301\nＴｏ be,  or not 日本 to BE… 🙂 ünd so weiter.",
  "\n\n  Spaces   before, and after.  \n",
  "日本語のテキスト、そしてもう一つ。",
  "🙂🙂 ☃ 🙂",
  "plain words alone",
]


def t5_like(tmp_path, **options):
  """Trains a SentencePiece model that normalises as T5's does."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["the fine cafe to be or not und so weiter"] * 5),
    model_writer=model, vocab_size=options.pop("vocab_size", 40),
    model_type="bpe", normalization_rule_name="nmt_nfkc", pad_id=0, eos_id=1,
    unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2, **options,
  )  # fmt: skip
  path = tmp_path / "spm.model"
  path.write_bytes(model.getvalue())
  return vocabularies.SentencePiece(str(path), extra_ids=4)


def byte_fallback(tmp_path):
  return t5_like(tmp_path, byte_fallback=True, vocab_size=300)


def word_piece(tmp_path):
  """Lower-cases, and has no word for most."""
  known = ["[PAD]", "[UNK]", "[SEP]", "the", "fi", "##ne", "to", "be", "or"]
  ids = {piece: i for i, piece in enumerate(known)}
  tokenizer = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
  tokenizer.normalizer = normalizers.BertNormalizer()
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = decoders.WordPiece()
  return saved(tokenizer, tmp_path)


def saved(tokenizer, tmp_path):
  path = tmp_path / "tokenizer.json"
  tokenizer.save(str(path))
  return vocabularies.resolve(str(path))


def plain_bytes(tmp_path):
  del tmp_path
  return seqio.ByteVocabulary()


@pytest.mark.parametrize(
  "make", [plain_bytes, t5_like, byte_fallback, word_piece]
)
def test_parts_have_all_bytes_of_the_original_between_them(make, tmp_path):
  vocabulary, rng = make(tmp_path), np.random.default_rng(0)
  for content in TEXTS:
    parted = OriginalText(vocabulary, content)
    whole = len(content.encode())
    count = len(parted.ids)
    assert parted.num_bytes(0, count) == whole
    lost = parted.num_lost(0, count)
    decoded = vocabulary.decode(parted.ids)
    assert (lost == 0) == (decoded == content) and lost <= whole
    for _ in range(5):
      a, b = (parted.whole(n) for n in sorted(rng.integers(0, count + 1, 2)))
      parts = [(0, a), (a, b), (b, count)]
      assert sum(parted.num_bytes(*part) for part in parts) == whole
      assert sum(parted.num_lost(*part) for part in parts) == lost
      assert all(parted.num_lost(*p) <= parted.num_bytes(*p) for p in parts)


def test_what_is_lost_by_hand(tmp_path):
  parted = OriginalText(t5_like(tmp_path), "the  ﬁne\nCafe")
  # A space of two, the ligature's 3 bytes, the line's end, and a capital that
  # no piece has.
  assert parted.num_lost(0, len(parted.ids)) == 1 + 3 + 1 + 1
  parted = OriginalText(word_piece(tmp_path), "THE fine tower")
  # Lower-cased, known, and not known, with the space before it.
  assert parted.num_lost(0, len(parted.ids)) == 3 + 0 + 6


def test_a_cut_in_a_character_moves_to_its_end(tmp_path):
  for make in (plain_bytes, byte_fallback):
    vocabulary = make(tmp_path)
    content = "日本 🙂 語"
    parted = OriginalText(vocabulary, content)
    for n in range(len(parted.ids) + 1):
      n = parted.whole(n)
      left, right = (vocabulary.decode(part) for part in (
        parted.ids[:n], parted.ids[n:],
      ))  # fmt: skip
      assert "�" not in left + right
      assert left.replace(" ", "") + right.replace(" ", "") == "日本🙂語"
      assert parted.num_bytes(0, n) in (
        len(left.encode()), len(left.encode()) + 1,
      )  # fmt: skip


def test_a_common_subsequence_is_a_longest_one():
  rng = np.random.default_rng(0)
  for _ in range(200):
    a, b = ("".join(rng.choice(list("abc"), rng.integers(0, 9))) for _ in "ab")
    pairs = common_subsequence(a, b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert all(np.diff(side).min(initial=1) > 0 for side in np.transpose(pairs))
    assert len(pairs) == _longest(a, b)


def _longest(a, b):
  if not a or not b:
    return 0
  if a[-1] == b[-1]:
    return 1 + _longest(a[:-1], b[:-1])
  return max(_longest(a[:-1], b), _longest(a, b[:-1]))


def test_a_uniform_model_has_the_bits_that_a_calculator_gives(tmp_path):
  """Of words of two letters, two spaces apart, with some that are not known."""
  words = [a + b for a in "abcdefgh" for b in "xyzuvw"]
  special = ["<pad>", "</s>", "<unk>"]
  ids = {word: i for i, word in enumerate([*special, *words])}
  tokenizer = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
  tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  saved(tokenizer, tmp_path)
  # 7 words, 14 spaces, and a snowman of 3 bytes.
  documents = ["  ".join([*words[n : n + 7], "☃"]) for n in range(40)]
  (tmp_path / "corpus.txt").write_text("\n".join(documents))
  size, found = 512, {}
  settings = Measures(
    excerpts=1, excerpt_bytes=31, documents=9, selection=4, samples=0
  )
  for name in ("bytes", str(tmp_path / "tokenizer.json")):
    task = text.text_task(
      files=str(tmp_path / "corpus.txt"), objective=CausalLM(), vocabulary=name,
      documents="line", validation=0.5,
    )  # fmt: skip
    model = tiny.with_vocab(tiny.palm(num_layers=1), size)
    params = jax.tree.map(np.zeros_like, model.init(jax.random.key(0)))
    measured = measures.measure(settings, model, params, resolve(task))
    found[name == "bytes"] = measured["continuation"]
  bits = math.log2(size)
  # Bytes: a token each, nothing lost. 31 tokens, 15 of them given.
  assert found[True]["bits_per_byte"] == pytest.approx(bits)
  assert set(found[True]["bytes"]) == {16} and found[True]["lost"] == 0
  # Words: of "  ab  cd  ef  ☃", 17 bytes, four tokens, the fourth unknown. Lost
  # are a space of each two, and before the snowman both, and its 3 bytes.
  assert set(found[False]["bytes"]) == {17}
  assert found[False]["bits_per_byte"] == pytest.approx(
    (4 * bits + 8 * (3 + 2 + 3)) / 17
  )
  assert found[False]["lost"] == pytest.approx((3 + 2 + 3) / 17)


def test_every_window_of_a_lossy_text_is_asked(tmp_path):
  document = Document("some", TEXTS)
  vocabulary = t5_like(tmp_path)
  asked = list(measures.questions(vocabulary, [document], "continuation", 0.1))
  assert len(asked) == len(TEXTS)
  assert all(0 <= q.num_lost <= q.num_bytes for q in asked)


def test_text_after_an_end_that_is_spelt_out_is_not_lost(tmp_path):
  path = tokenizer_files.write("t5_like", tmp_path)
  text = "the cat </s> sat on the mat"
  whole = OriginalText(HuggingFaceTokenizer(path), text)
  size = len(whole.ids)
  assert whole.num_bytes(0, size) == len(text)
  assert whole.num_lost(0, size) == len("</s> ")
  assert all(whole.num_bytes(i, i + 1) for i in range(size - 1, size - 4, -1))
