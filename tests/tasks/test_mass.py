"""MASS masks one span token by token, and tells it."""

import numpy as np
import pytest
import scipy.stats

from tasks.mass import MASS
from tests.tasks.streams import BYTES, examples

EOS = 1
MASK = BYTES.vocab_size - 1
LENGTHS = {"inputs": 33, "targets": 17}
TEXT = "".join(chr(97 + i % 26) for i in range(20_000))


def test_one_span_of_half_the_text_anywhere():
  rows = examples(MASS(mask_fraction=1, random_fraction=0), LENGTHS, TEXT)
  text, starts = BYTES.encode(TEXT), []
  for i, row in enumerate(rows[:-1]):
    inputs, targets = row["inputs"].tolist(), row["targets"].tolist()
    assert inputs.pop() == targets.pop() == EOS
    start = inputs.index(MASK)
    assert inputs[start : start + 16] == [MASK] * 16
    inputs[start : start + 16] = targets
    assert inputs == text[i * 32 : (i + 1) * 32]
    starts.append(start)
  counts = np.bincount(starts, minlength=17)
  assert len(counts) == 17
  assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_masks_are_those_of_bert():
  rows = examples(MASS(), LENGTHS, TEXT)[:-1]
  inputs = np.concatenate([row["inputs"] for row in rows])
  masked = (inputs == MASK).sum() / (16 * len(rows))
  assert abs(masked - 0.8) < 0.02


@pytest.mark.parametrize(("targets", "window"), [(17, 32), (9, 17), (50, 32)])
def test_the_window_fits_both_lengths(targets, window):
  lengths = {"inputs": 33, "targets": targets}
  row = examples(MASS(), lengths, TEXT)[0]
  # Half of 17 tokens is 8: a tie goes to the even number.
  assert len(row["inputs"]) == window + 1


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="33 inputs and 1 targets .* nothing"):
    examples(MASS(), {"inputs": 33, "targets": 1}, TEXT)
  with pytest.raises(ValueError, match="sum to at most 1"):
    MASS(mask_fraction=0.9, random_fraction=0.2)
