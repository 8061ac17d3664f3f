"""Fill in the middle: the parts, joined in their order, are the text."""

import json

import numpy as np
import pytest
import scipy.stats
import seqio
import tensorflow as tf

from tasks import fim, sources, spelling, vocabularies, windows
from tasks.fim import FIM
from tasks.hf_vocabulary import HuggingFaceTokenizer
from tests.tasks import kinds
from tests.tasks.streams import BYTES, examples
from tests.tasks.test_spans import many

EOS = 1
TEXT = "Motörhead, naïve façade; the cat sat on the mat\n  and said nothing. "


def parts(tokens, vocabulary=BYTES):
  """Returns (prefix, middle, suffix), or None of plain text."""
  *tokens, end = tokens.tolist()
  pre, suf, mid = (vocabulary.vocab_size - 1 - i for i in range(3))
  assert end == vocabulary.eos_id
  if tokens[0] != pre:
    assert not {pre, suf, mid} & set(tokens)
    return None
  first, second = tokens.index(suf), tokens.index(mid)
  return tokens[1:first], tokens[second + 1 :], tokens[first + 1 : second]


@pytest.fixture(scope="module")
def pieces():
  """A SentencePiece vocabulary."""
  source = sources.MemorySource("fim", {"train": {"text": [TEXT] * 50}})
  return vocabularies.TrainedSentencePiece([source])


@pytest.mark.parametrize("spm_rate", [0.0, 1.0])
def test_parts_in_order_restore_the_text(spm_rate, pieces):
  for vocabulary in (BYTES, pieces):
    rows = examples(
      FIM(rate=1.0, spm_rate=spm_rate),
      {"targets": 200},
      *[TEXT] * 50,
      vocabulary=vocabulary,
    )
    within = 0
    for row in rows:
      prefix, middle, suffix = parts(row["targets"], vocabulary)
      if spm_rate:  # What follows <MID> is prefix and middle.
        assert not prefix
      assert vocabulary.decode(prefix + middle + suffix) == TEXT
      within += vocabulary.decode(suffix)[:1].isalpha()
    assert within > 15  # Most cuts are within words.


def test_every_pair_of_cuts_is_drawn_alike():
  tokens = tf.constant(BYTES.encode("äbç"))

  def sizes(seeds):
    parts = fim.cut_in_three(tokens, BYTES, room=5, seed=seeds[0])
    texts = tf.stack([BYTES.decode_tf(part) for part in parts])
    return tf.strings.length(texts, unit="UTF8_CHAR")

  drawn = many(sizes, 1000)
  cuts = [(p, p + m) for p, m, s in drawn if p + m + s == 3]
  assert len(cuts) == 1000
  counts = np.zeros((4, 4))
  np.add.at(counts, tuple(np.array(cuts).T), 1)
  # Two cuts at one place come once of 16, two at different ones twice.
  expected = 1000 / 16 * (np.triu(np.full((4, 4), 2.0)) - np.eye(4))
  found = scipy.stats.chisquare(counts[expected > 0], expected[expected > 0])
  assert found.pvalue > 1e-3


def test_rates_are_kept():
  rows = examples(
    FIM(rate=0.7, spm_rate=0.25), {"targets": 30}, *["some text"] * 800
  )
  found = [parts(row["targets"]) for row in rows]
  plain = sum(p is None for p in found)
  spm = sum(p is not None and not p[0] for p in found)
  # An empty prefix, 19 of 100 pairs of 10 cuts, looks like SPM.
  shares = np.array([0.3, 0.7 * 0.25 + 0.7 * 0.75 * 0.19])
  expected = [*shares * 800, (1 - shares.sum()) * 800]
  counts = [plain, spm, 800 - plain - spm]
  assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3


def test_long_documents_are_divided_and_nothing_else_is_joined():
  rows = examples(FIM(rate=0.0), {"targets": 10}, "a" * 14, "b" * 3)
  assert [BYTES.decode(row["targets"]) for row in rows] == [
    "a" * 6, "a" * 6, "a" * 2, "b" * 3,
  ]  # fmt: skip


# Fits no window: characters of one to four bytes, those that no piece has, NUL,
# accents for themselves, spaces that a tokenizer joins, and sentinels.
SCRIPTS = "".join([
  kinds.TEXT, "𝔗𝔴𝔬 👩‍💻👩‍💻 猫が寝ています静かだ ",
  "½ﬁ  \x00 e\u0301e\u0301\u0302 ", TEXT, "<extra_id_0> بعد", "Кошка" * 9,
])  # fmt: skip


@pytest.fixture(scope="module", params=kinds.KINDS)
def vocabulary(request, tmp_path_factory):
  return request.param(tmp_path_factory.mktemp("kinds") / "tokenizer.json")


def test_parts_are_the_windows_in_any_script_and_vocabulary(vocabulary):
  document = tf.data.Dataset.from_tensors({"text": SCRIPTS})
  features = {"targets": seqio.Feature(vocabulary)}
  (whole,) = windows.encode(document, features).as_numpy_iterator()
  objective = FIM(rate=1.0, spm_rate=0.0)
  rows = examples(objective, {"targets": 60}, SCRIPTS, vocabulary=vocabulary)
  joined, texts = [], []
  for row in rows:
    assert len(row["targets"]) <= 60
    prefix, middle, suffix = parts(row["targets"], vocabulary)
    joined += prefix + middle + suffix
    texts += [vocabulary.decode(part) for part in (prefix, middle, suffix)]
  assert vocabulary.decode(joined) == vocabulary.decode(whole["targets"])
  unknown = vocabulary.unk_id
  assert joined.count(unknown) == (whole["targets"] == unknown).sum()
  # A part may begin and end as its window does, within a character.
  assert not any("\ufffd" in text.strip("\ufffd") for text in texts), texts


# WordPiece does not tell where its words meet, and a Metaspace of
# tokenizer.json begins every part with a space: both are cut between tokens.
@pytest.mark.parametrize(
  "vocabulary",
  [k for k in kinds.KINDS if k not in (kinds.word_piece, kinds.metaspace)],
  indirect=True,
)
def test_words_are_cut_and_their_parts_encoded_for_themselves(vocabulary):
  text = "the cat sat on the mat and said nothing that she asked why not"
  rows = examples(
    FIM(rate=1.0, spm_rate=0.0), {"targets": 99}, *[text] * 30,
    vocabulary=vocabulary,
  )  # fmt: skip
  within = as_typed = 0
  for row in rows:
    prefix, middle, suffix = parts(row["targets"], vocabulary)
    typed = vocabulary.decode(prefix)
    within += text[: len(typed)][-1:].isalpha() and text[len(typed)].isalpha()
    as_typed += list(vocabulary.encode(typed)) == prefix
  assert within > 12  # Most cuts are within words.
  # But for a prefix that ends in a space, or is nothing else.
  assert as_typed > 20


def test_a_cut_that_needs_more_room_than_there_is_is_between_tokens(pieces):
  tokens = tf.constant(pieces.encode(TEXT))
  size = len(tokens)

  def cut(seeds):
    return [
      fim.cut_in_three(tokens, pieces, room=size + more, seed=seeds[0])
      for more in (0, 1, 20)
    ]

  grown = set()
  for made in many(cut, 30):
    for more, found in zip((0, 1, 20), made, strict=True):
      joined = np.concatenate(found)
      assert len(joined) <= size + more
      assert pieces.decode(joined.tolist()) == TEXT
      grown.add((more, len(joined) - size))
  assert (0, 1) not in grown and {(1, 1), (20, 2)} <= grown


def test_a_piece_that_is_in_no_text_does_no_harm(tmp_path):
  path = tmp_path / "tokenizer.json"
  kinds.byte_level(path)
  content = json.loads(path.read_text())
  ids = content["model"]["vocab"]
  ids["<｜place▁holder｜>"] = odd = max(ids.values()) + 1
  path.write_text(json.dumps(content))
  vocabulary = HuggingFaceTokenizer(str(path))
  spelt = spelling.table(vocabulary)
  assert spelling.NO_TEXT in spelt[odd + vocabulary.offset]
  tokens = vocabulary.encode("the café")
  assert b"".join(spelt[i] for i in tokens).decode() == "the café"


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="4 targets has no room for text"):
    examples(FIM(), {"targets": 4}, TEXT)
  with pytest.raises(ValueError, match="fim needs 3 sentinels, more than .* 2"):
    examples(
      FIM(), {"targets": 9}, TEXT, vocabulary=vocabularies.Bytes(extra_ids=2)
    )
  with pytest.raises(ValueError, match=r"spm_rate \(1.1\) must be in .0, 1."):
    FIM(spm_rate=1.1)


def test_divide_worked_example():
  dataset = tf.data.Dataset.from_generator(
    lambda: iter([{"targets": [5, 6, 7]}, {"targets": []}, {"targets": [8]}]),
    output_signature={"targets": tf.TensorSpec([None], tf.int32)},
  )
  rows = windows.divide(dataset, 2).as_numpy_iterator()
  assert [row["targets"].tolist() for row in rows] == [[5, 6], [7], [8]]
