"""GLM's blanks: what the paper draws, and nothing lost."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from t5x_lite import row_formats
from t5x_lite.data import feature_converters
from tasks import glm, spans
from tasks.glm import GLM
from tests.tasks.streams import BYTES, examples

EOS = 1
LENGTHS = {"inputs": 128, "targets": 64, "positions": 64}
TEXT = " ".join(f"Sentence {i} has words{'!.?'[i % 3]}" for i in range(300))


def test_worked_example_of_the_paper():
  # Figure 2: x1 ... x6 with the spans x3 and x5 x6, which come first.
  found = spans.Spans(tf.constant([2, 4]), tf.constant([1, 2]))
  for seed in range(10):
    example = glm.blank(
      tf.range(11, 17), found, mask=99, eos=EOS, seed=[seed, 0]
    )
    if example["targets"][0] == 15:
      break
  row = {name: value.numpy().tolist() for name, value in example.items()}
  assert row == {
    "inputs": [11, 12, 99, 14, 99],
    "targets": [15, 16, EOS, 13, EOS],
    "positions": [4, 4, 4, 2, 2],
  }
  convert = feature_converters.converter(row_formats.PREFIX, pack=False)
  dataset = tf.data.Dataset.from_tensors(example)
  lengths = {name: 5 for name in example}
  (row,) = convert(dataset, lengths).as_numpy_iterator()
  expected = {  # Positions of the paper, less 1.
    "input_tokens": [11, 12, 99, 14, 99, 0, 15, 16, 0, 13],
    "positions": [0, 1, 2, 3, 4, 4, 4, 4, 2, 2],
    "block_positions": [0, 0, 0, 0, 0, 1, 2, 3, 1, 2],
  }
  for name, numbers in expected.items():
    assert row[f"decoder_{name}"].tolist() == numbers


def fill(row, mask):
  """Puts each span of part B in the place of its mask in part A."""
  inputs = row["inputs"].tolist()
  where = row["positions"]
  assert (row["targets"] == EOS).sum() == inputs.count(mask)
  text = []
  for place, token in enumerate(inputs):
    if token != mask:
      assert place not in where
      text.append(token)
      continue
    span = row["targets"][where == place].tolist()
    assert span.pop() == EOS and EOS not in span
    text += span
  return text


@pytest.mark.parametrize("mode", glm.MODES)
def test_spans_in_the_places_of_their_masks_restore_the_text(mode):
  objective = GLM(mode=mode)
  mask = BYTES.vocab_size - 1 - glm.MODES[mode]
  rows = examples(objective, LENGTHS, TEXT)
  text = sum((fill(row, mask) for row in rows), [])
  assert text == BYTES.encode(TEXT)
  for row in rows:
    assert all(len(row[name]) <= length for name, length in LENGTHS.items())


def test_spans_of_tokens_cover_15_percent_and_come_in_any_order():
  rows = examples(GLM(), LENGTHS, TEXT)[:-1]
  window = GLM().window_length(128, 64)
  assert window > 120
  ascending = 0
  for row in rows:
    ends = np.flatnonzero(row["targets"] == EOS)
    assert len(row["targets"]) - len(ends) == round(0.15 * window)
    ascending += (np.diff(row["positions"]) >= 0).all()
  assert ascending < len(rows) / 4  # One order of 6! would be right by chance.


def test_whole_sentences_cover_15_percent_at_least():
  rows = examples(GLM(mode="sentence"), LENGTHS, TEXT)[:-1]
  whole = 0
  for row in rows:
    text = BYTES.decode(np.where(row["targets"] == EOS, 3 + 10, row["targets"]))
    *sentences, end = text.split("\n")
    assert end == "" and 0.15 * 128 <= sum(map(len, sentences))
    whole += sum(s.startswith("Sent") and s[-2] in ".!?" for s in sentences)
  # But for those that the borders of a window cut.
  assert whole > len(rows) / 2


def test_the_end_of_a_document_is_from_a_half_to_all_of_it():
  objective = GLM(mode="document")
  rows = examples(objective, LENGTHS, TEXT * 4)[:-1]
  window = objective.window_length(128, 64)
  assert window == 63
  lengths = [len(row["targets"]) - 1 for row in rows]
  assert (min(lengths), max(lengths)) == (32, 63)
  counts = np.bincount(lengths)[32:]
  assert scipy.stats.chisquare(counts).pvalue > 1e-3
  for row in rows:
    assert row["inputs"][-1] == BYTES.vocab_size - 3  # [gMASK]


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"mode": "word"}, "mode .'word'. must be one of 'token', 'sentence'"),
    ({"noise_density": 1}, r"noise_density \(1\) must be in .0, 1."),
    ({"mean_span": 0}, r"mean_span \(0\) must be at least 1"),
  ],
)
def test_settings_without_sense_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    GLM(**settings)


def test_lengths_that_leave_nothing_are_refused():
  lengths = {"inputs": 1, "targets": 64, "positions": 64}
  with pytest.raises(ValueError, match="1 inputs and 64 targets .* set more"):
    examples(GLM(), lengths, TEXT)
