"""BERT's pairs: half follow, half are of another document, all are masked."""

import numpy as np
import pytest
import scipy.stats

from tasks.mlm import MLM
from tasks.sentence_pairs import SentencePairs
from tests.tasks.streams import BYTES, examples

EOS, BEGIN, MASK = 1, BYTES.vocab_size - 2, BYTES.vocab_size - 1
NAMES = ("inputs", "targets", "weights", "token_types", "next_sentence")
LENGTHS = dict.fromkeys(NAMES, 64)


def document(letter, count=20):
  return " ".join(f"{letter * (3 + i % 4)} {i}." for i in range(count))


DOCUMENTS = [document(letter) for letter in "abcdefgh" * 30]


def parts(row):
  """Returns the texts of a pair."""
  tokens, types = row["targets"], row["token_types"]
  first, second = tokens[types == 0].tolist(), tokens[types == 1].tolist()
  assert first[0] == BEGIN and first[-1] == second[-1] == EOS
  assert (np.diff(types) >= 0).all()
  return BYTES.decode(first[1:]), BYTES.decode(second)


def test_pairs_follow_or_come_from_the_document_before():
  rows = examples(SentencePairs(), LENGTHS, *DOCUMENTS)
  labels = []
  for row in rows:
    first, second = parts(row)
    assert first and second
    (label,) = row["next_sentence"]
    labels.append(label)
    letter = next(filter(str.isalpha, first))
    if label == 0:
      assert first + second in document(letter)
    else:
      before = "abcdefgh"["abcdefgh".index(letter) - 1]
      assert second in document(before)
  # The first document has none before it.
  number = labels[5:].count(1), labels[5:].count(0)
  assert scipy.stats.chisquare(number).pvalue > 1e-3


def test_parts_begin_with_sentences_where_there_are_several():
  rows = examples(SentencePairs(random_rate=0.0), LENGTHS, *DOCUMENTS)
  whole = [parts(row)[0].endswith(". ") for row in rows]
  # A document's last piece may be one sentence.
  assert np.mean(whole) > 0.8
  (row,) = examples(SentencePairs(), LENGTHS, "one sentence")
  assert parts(row) == ("one se", "ntence")


def test_marks_are_never_masked_and_15_percent_of_the_text_is():
  for row in examples(SentencePairs(), LENGTHS, *DOCUMENTS[:40]):
    sizes = {len(row[name]) for name in NAMES[:4]}
    assert len(sizes) == 1 and sizes.pop() <= 64
    is_mark = (row["targets"] == BEGIN) | (row["targets"] == EOS)
    assert is_mark.sum() == 3 and not row["weights"][is_mark].any()
    assert row["weights"].sum() == max(1, round(0.15 * (~is_mark).sum()))
    same = row["inputs"] == row["targets"]
    assert same[row["weights"] == 0].all()


def test_no_token_of_a_document_is_missing_but_those_of_others_places():
  rows = examples(SentencePairs(random_rate=0.0), LENGTHS, *DOCUMENTS[:8])
  text = "".join("".join(parts(row)) for row in rows)
  assert text == "".join(DOCUMENTS[:8])


@pytest.mark.parametrize(
  ("lengths", "message"),
  [
    (dict.fromkeys(NAMES, 4), "4 tokens has no room .* 3 marks: set 5"),
    (LENGTHS | {"inputs": 60}, "one length .* got 60, 64, 64"),
  ],
)
def test_lengths_that_do_not_fit_are_refused(lengths, message):
  with pytest.raises(ValueError, match=message):
    examples(SentencePairs(masking=MLM()), lengths, "text")


def test_a_rate_is_a_share():
  with pytest.raises(ValueError, match=r"random_rate \(2\) must be in .0, 1."):
    SentencePairs(random_rate=2)
