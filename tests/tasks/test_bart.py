"""BART's noise, one kind at a time and all together."""

import numpy as np
import pytest

from tasks.bart import BART
from tests.tasks.streams import BYTES, examples

EOS = 1
MASK = BYTES.vocab_size - 1
LENGTHS = {"inputs": 65, "targets": 65}
TEXT = " ".join(f"Sentence {i} has words{'!.?'[i % 3]}" for i in range(400))
OFF = {"infilling_density": 0.0, "permute_sentences": False}


def rows(**settings):
  made = examples(BART(**settings), LENGTHS, TEXT)
  targets = [t for row in made for t in row["targets"][:-1]]
  assert targets == BYTES.encode(TEXT)  # The text, whatever the noise.
  for row in made:
    assert row["inputs"][-1] == row["targets"][-1] == EOS
    assert max(map(len, row.values())) <= 65
  return [
    (row["inputs"][:-1].tolist(), row["targets"][:-1].tolist())
    for row in made[:-1]
  ]


def is_subsequence(short, long):
  remaining = iter(long)
  return all(token in remaining for token in short)


def test_infilling_covers_30_percent_and_inserts_masks():
  made = rows(permute_sentences=False)
  for inputs, text in made:
    kept = [token for token in inputs if token != MASK]
    assert is_subsequence(kept, text)
    assert len(text) - len(kept) == round(0.3 * len(text)) == 19
    # Masks do not touch: each stands for one span.
    pairs = zip(inputs, inputs[1:], strict=False)
    assert all((MASK, MASK) != pair for pair in pairs)
  # Spans of mean 3 cover 19 tokens in some seven, e^-3 of them empty.
  masks = sum(inputs.count(MASK) for inputs, _ in made)
  assert 6 < masks / len(made) < 8


def test_some_spans_are_empty():
  # One of 20 spans removes nothing: the texts on both sides of its mask are
  # neighbours in a text without repetition.
  text = "".join(map(chr, range(0x100, 0x100 + 2000)))
  made = examples(
    BART(permute_sentences=False), {"inputs": 201, "targets": 201}, text
  )
  empty = total = 0
  for row in made:
    inputs, targets = row["inputs"].tolist(), row["targets"].tolist()
    pairs = set(
      zip(targets[:-3], targets[1:-2], targets[2:-1], targets[3:], strict=True)
    )
    for i in range(2, len(inputs) - 2):
      if inputs[i] == MASK:
        around = (*inputs[i - 2 : i], *inputs[i + 1 : i + 3])
        total += 1
        empty += around in pairs
  assert 0.02 < empty / total < 0.09  # e^-3 = 0.05


def test_sentences_are_permuted_whole():
  made = rows(infilling_density=0.0)
  for inputs, text in made:
    assert sorted(inputs) == sorted(text)
  # Of two sentences or three in a window, the old order is one of 2 or 6.
  assert sum(inputs != text for inputs, text in made) > len(made) / 3


def test_worked_permutation():
  text = "A b. C d e f. G"
  (row,) = examples(BART(infilling_density=0.0), LENGTHS, text, seed=3)
  noisy = BYTES.decode(row["inputs"])
  assert noisy != text and len(noisy) == len(text)
  for sentence in ("A b. ", "C d e f. ", "G"):
    assert sentence in noisy


def test_deletion_deletes_so_many():
  for inputs, text in rows(**OFF, deletion_density=0.25):
    assert len(inputs) == len(text) - round(0.25 * len(text))
    assert is_subsequence(inputs, text)


def test_rotation_begins_anywhere():
  offsets = set()
  for inputs, text in rows(**OFF, rotate=True):
    turns = [i for i in range(len(text)) if text[i:] + text[:i] == inputs]
    assert turns
    offsets.add(turns[0])
  assert len(offsets) > 30 and np.ptp(list(offsets)) > 50


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"infilling_density": 1.0}, r"infilling_density \(1.0\) must be in"),
    ({"deletion_density": -0.1}, r"deletion_density \(-0.1\) must be in"),
    ({"mean_span": 0.9}, r"mean_span \(0.9\) must be at least 1"),
    (OFF, "does not change the text: set one"),
  ],
)
def test_settings_without_sense_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    BART(**settings)


def test_lengths_that_leave_nothing_are_refused():
  with pytest.raises(ValueError, match="2 inputs and targets leaves nothing"):
    examples(BART(), {"inputs": 2, "targets": 65}, TEXT)
