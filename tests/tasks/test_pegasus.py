"""PEGASUS takes whole sentences, and the principal ones are ROUGE's."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from tasks import pegasus
from tasks.pegasus import PEGASUS
from tests.tasks.streams import BYTES, examples

EOS = 1
MASK = BYTES.vocab_size - 1
LENGTHS = {"inputs": 129, "targets": 129}
TEXT = " ".join(f"Sentence {i} has words{'!.?'[i % 3]}" for i in range(300))


@pytest.mark.parametrize("choose", ["random", "lead", "principal"])
def test_sentences_in_the_places_of_their_masks_restore_the_text(choose):
  rows = examples(PEGASUS(choose=choose), LENGTHS, TEXT)
  for i, row in enumerate(rows[:-1]):
    inputs, targets = row["inputs"].tolist(), row["targets"].tolist()
    assert inputs.pop() == targets.pop() == EOS
    # Windows of 128 bytes have five or six sentences: two are taken.
    assert inputs.count(MASK) == 2
    first = inputs.index(MASK)
    second = inputs.index(MASK, first + 1)
    text = BYTES.encode(TEXT)[i * 128 : (i + 1) * 128]
    assert len(inputs) - 2 + len(targets) == 128
    cuts = [
      inputs[:first] + targets[:n] + inputs[first + 1 : second] + targets[n:]
      + inputs[second + 1 :]
      for n in range(len(targets))
    ]  # fmt: skip
    assert text in cuts
    if choose == "lead":
      assert (first, second) == (0, 1)


def test_worked_example():
  text = "One cat. The cat sat. A dog. No. Yes."
  objective = PEGASUS(choose="lead", sentence_density=0.4)
  (row,) = examples(objective, LENGTHS, text)
  assert BYTES.decode(row["inputs"]) == (
    "<extra_id_0><extra_id_0>A dog. No. Yes."
  )
  assert BYTES.decode(row["targets"]) == "One cat. The cat sat. "


def f1(one, rest):
  """Returns ROUGE-1 F1 after Lin 2004: clipped matches, both ways."""
  matches = sum((collections.Counter(one) & collections.Counter(rest)).values())
  precision, recall = matches / len(one), matches / len(rest)
  return 2 * precision * recall / (precision + recall) if matches else 0


def test_principal_sentences_are_those_of_rouge():
  rng = np.random.default_rng(0)
  for _ in range(50):
    lengths = rng.integers(1, 9, rng.integers(2, 7))
    tokens = rng.integers(0, 12, lengths.sum())
    sentence = np.repeat(np.arange(len(lengths)), lengths)
    expected = [
      f1(tokens[sentence == i].tolist(), tokens[sentence != i].tolist())
      for i in range(len(lengths))
    ]
    actual = pegasus.rouge_1(tf.constant(tokens), sentence, len(lengths))
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_a_single_sentence_is_copied():
  (row,) = examples(PEGASUS(), LENGTHS, "only one")
  assert row["inputs"].tolist() == row["targets"].tolist()


def test_targets_are_trimmed_before_their_end():
  objective = PEGASUS(choose="lead")
  rows = examples(objective, LENGTHS | {"targets": 9}, TEXT)
  # The first sentence of a window may be a short rest of one.
  assert max(len(row["targets"]) for row in rows) == 9
  assert {row["targets"][-1] for row in rows} == {EOS}


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="2 inputs and 129 targets has no room"):
    examples(PEGASUS(), LENGTHS | {"inputs": 2}, TEXT)
  with pytest.raises(ValueError, match="choose .'best'. must be one of 'rando"):
    PEGASUS(choose="best")
  with pytest.raises(ValueError, match=r"sentence_density \(0\) must be in"):
    PEGASUS(sentence_density=0)
