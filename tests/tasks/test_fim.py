"""Fill in the middle: the parts, joined in their order, are the text."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tasks import fim, sources, vocabularies, windows
from tasks.fim import FIM
from tests.tasks.streams import BYTES, examples
from tests.tasks.test_spans import many

EOS = 1
TEXT = "Motörhead, naïve façade; the cat sat on the mat\n  and said nothing. "


def parts(tokens, vocabulary=BYTES):
  """Returns (prefix, middle, suffix), or None of plain text."""
  *tokens, end = tokens.tolist()
  pre, suf, mid = (vocabulary.vocab_size - 1 - i for i in range(3))
  assert end == EOS
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
  drawn = many(
    lambda s: tf.strings.length(
      tf.stack(fim.cut_in_three("äbç", seed=s[0])), unit="UTF8_CHAR"
    ),
    3000,
  )
  cuts = [(p, p + m) for p, m, s in drawn if p + m + s == 3]
  assert len(cuts) == 3000
  counts = np.zeros((4, 4))
  np.add.at(counts, tuple(np.array(cuts).T), 1)
  # Two cuts at one place come once of 16, two at different ones twice.
  expected = 3000 / 16 * (np.triu(np.full((4, 4), 2.0)) - np.eye(4))
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


class Doubled:
  """Encodes each of "abcdefgh" to two tokens, whatever the tokens were."""

  vocab_size, eos_id = 999, EOS

  def decode_tf(self, tokens):
    del tokens
    return tf.constant("abcdefgh")

  def encode_tf(self, text):
    return tf.repeat(tf.cast(tf.io.decode_raw(text, tf.uint8), tf.int32), 2)


def test_truncation_keeps_the_middle():
  objective, vocabulary = FIM(rate=1.0, spm_rate=0.0), Doubled()

  def corrupt(seeds):
    cut_seed = tf.random.experimental.stateless_split(seeds[0], 3)[2]
    whole = fim.cut_in_three(tf.constant("abcdefgh"), seed=cut_seed)
    example = objective.corrupt(
      tf.range(8), seeds[0], vocabulary, targets_length=16
    )
    return tuple(map(vocabulary.encode_tf, whole)), example["targets"]

  shortened = set()
  for whole, targets in many(corrupt, 60):
    prefix, middle, suffix = (part.tolist() for part in whole)
    kept = parts(targets, vocabulary)
    assert len(targets) == 16
    assert kept[1] == middle[:12]  # Only 12 of 16 tokens have room.
    assert prefix[len(prefix) - len(kept[0]) :] == kept[0]
    assert suffix[: len(kept[2])] == kept[2]
    # The suffix gives way first.
    assert kept[0] == prefix or not kept[2]
    shortened.add((kept[0] == prefix, kept[2] == suffix))
  assert {(True, False), (False, False)} <= shortened


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="4 targets leaves no text beside 4 mar"):
    examples(FIM(), {"targets": 4}, TEXT)
  with pytest.raises(ValueError, match="fim needs 3 sentinels, more than .* 2"):
    examples(
      FIM(), {"targets": 9}, TEXT, vocabulary=vocabularies.Bytes(extra_ids=2)
    )
  with pytest.raises(ValueError, match=r"spm_rate \(1.1\) must be from 0 to 1"):
    FIM(spm_rate=1.1)


def test_divide_worked_example():
  dataset = tf.data.Dataset.from_generator(
    lambda: iter([{"targets": [5, 6, 7]}, {"targets": []}, {"targets": [8]}]),
    output_signature={"targets": tf.TensorSpec([None], tf.int32)},
  )
  rows = windows.divide(dataset, 2).as_numpy_iterator()
  assert [row["targets"].tolist() for row in rows] == [[5, 6], [7], [8]]
