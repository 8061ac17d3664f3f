"""Causal and prefix language models, BERT's masks, ELECTRA's tokens."""

import collections

import numpy as np
import pytest
import scipy.stats
import seqio

from tasks import sources, vocabularies, windows
from tasks.causal_lm import CausalLM
from tasks.mlm import MLM
from tasks.prefix_lm import PrefixLM
from tasks.replaced_tokens import ReplacedTokens
from tests.tasks import t5_reference
from tests.tasks.streams import BYTES, examples, task

EOS = 1
MASK = BYTES.vocab_size - 1
TEXT = "".join(chr(97 + i % 26) for i in range(4000))


def test_causal_lm_ends_documents_and_nothing_else():
  rows = examples(CausalLM(), {"targets": 5}, "abc", "de", "fghi")
  targets = [row["targets"].tolist() for row in rows]
  a = BYTES.encode("abcdefghi")
  assert targets == [
    [*a[:3], EOS, a[3]],
    [a[4], EOS, *a[5:8]],
    [a[8], EOS],
  ]


def test_causal_lm_has_targets_only():
  assert list(CausalLM().output_features(BYTES)) == ["targets"]


def test_causal_lm_needs_two_tokens():
  with pytest.raises(ValueError, match="at least 2 targets, got 1"):
    examples(CausalLM(), {"targets": 1}, "abc")


@pytest.mark.parametrize("fraction", [None, 0.25, 0.75])
def test_prefix_and_continuation_are_one_window(fraction):
  lengths = {"inputs": 32, "targets": 32}
  rows = examples(PrefixLM(prefix_fraction=fraction), lengths, TEXT[:1000])
  joined = [
    token for row in rows for token in [*row["inputs"], *row["targets"]]
  ]
  assert joined == [*BYTES.encode(TEXT[:1000]), EOS]
  for row in rows:
    assert 1 <= len(row["inputs"]) <= 32
    assert 1 <= len(row["targets"]) <= 32


def test_uniform_split_draws_every_prefix_alike():
  lengths = {"inputs": 8, "targets": 8}
  *rows, _ = examples(PrefixLM(), lengths, *[TEXT] * 4)
  sizes = [len(row["inputs"]) for row in rows]
  counts = collections.Counter(sizes[::2])
  assert sorted(counts) == list(range(1, 8))
  assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_uniform_splits_are_those_of_t5_given_one_seed():
  with seqio.utils.map_seed_manager(7):
    dataset = windows.transform(
      t5_reference.windows(),
      t5_reference.features(),
      function=PrefixLM().corrupt,
    )
  prefixes = [len(row["inputs"]) for row in dataset.as_numpy_iterator()]
  assert prefixes == t5_reference.golden()["prefixes"].tolist()


def test_uniformly_split_windows_come_in_complementary_twos():
  lengths = {"inputs": 8, "targets": 8}
  *rows, last = examples(PrefixLM(), lengths, TEXT[: 8 * 20 + 3])
  for one, other in zip(rows[::2], rows[1::2], strict=True):
    assert len(one["inputs"]) + len(other["inputs"]) == 8
    assert len(one["targets"]) + len(other["targets"]) == 8
  assert len(last["inputs"]) + len(last["targets"]) == 4


@pytest.mark.parametrize(
  ("fraction", "inputs", "targets", "window"),
  [
    (0.75, 96, 32, 128),
    (0.5, 64, 64, 128),
    (0.25, 512, 90, 120),
    (None, 64, 64, 64),
    (None, 64, 512, 64),
  ],
)
def test_the_longest_window_is_taken_whose_parts_fit(
  fraction, inputs, targets, window
):
  objective = PrefixLM(prefix_fraction=fraction)
  assert objective.window_length(inputs, targets) == window


def test_a_uniform_split_refuses_targets_that_would_be_cut():
  with pytest.raises(
    ValueError, match="up to 511 are targets, more than .*114"
  ):
    PrefixLM().window_length(512, 114)


@pytest.mark.parametrize("fraction", [0, 1, 1.5])
def test_a_prefix_is_a_part(fraction):
  with pytest.raises(ValueError, match="prefix_fraction .* between 0 and 1"):
    PrefixLM(prefix_fraction=fraction)


LENGTHS = {"inputs": 100, "targets": 100, "weights": 100}


def test_mlm_chooses_15_percent_of_eligible_tokens():
  # Of 100 positions 10 end documents: round(0.15 * 90) = 14.
  rows = examples(MLM(), LENGTHS, *["abcdefghi"] * 10)
  (row,) = rows
  assert row["weights"].sum() == 14
  assert not row["weights"][row["targets"] == EOS].any()
  unchosen = row["weights"] == 0
  np.testing.assert_array_equal(
    row["inputs"][unchosen], row["targets"][unchosen]
  )


def test_mlm_masks_80_replaces_10_and_keeps_10_percent():
  rows = examples(MLM(), LENGTHS, *[TEXT] * 10)
  inputs, targets, weights = (
    np.concatenate([row[key] for row in rows])
    for key in ("inputs", "targets", "weights")
  )
  chosen = weights == 1
  total = chosen.sum()
  masked = (inputs[chosen] == MASK).mean()
  kept = (inputs[chosen] == targets[chosen]).mean()
  tolerance = 4 * (0.8 * 0.2 / total) ** 0.5
  assert abs(masked - 0.8) < tolerance
  # One random token in 256 is the right one.
  assert abs(kept - (0.1 + 0.1 / 256)) < tolerance
  replaced = inputs[chosen & (inputs != MASK) & (inputs != targets)]
  first, end = vocabularies.ordinary_ids(BYTES)
  assert first <= replaced.min() and replaced.max() < end
  assert len(set(replaced.tolist())) > 100


def test_mlm_chooses_something_in_a_short_text():
  (row,) = examples(MLM(), LENGTHS, "ab")
  assert row["weights"].sum() == 1


def test_mlm_refuses_lengths_that_differ():
  with pytest.raises(ValueError, match="one length .* got 100, 90, 100"):
    examples(MLM(), LENGTHS | {"targets": 90}, "ab")


def test_mlm_needs_a_mask():
  with pytest.raises(ValueError, match="mlm needs 1 sentinels, more than .*0"):
    examples(MLM(), LENGTHS, "ab", vocabulary=vocabularies.Bytes(extra_ids=0))


def test_mlm_refuses_fractions_above_one():
  with pytest.raises(ValueError, match="sum to at most 1"):
    MLM(mask_fraction=0.8, random_fraction=0.3)


WORDS = " ".join("abcdefghij"[: 1 + i % 5] for i in range(400))


def test_whole_words_are_masked_together_and_cover_15_percent():
  objective = MLM(whole_words=True, mask_fraction=1.0, random_fraction=0.0)
  rows = examples(objective, LENGTHS, WORDS)[:-1]
  shares = []
  for row in rows:
    space = row["targets"] == BYTES.encode(" ")[0]
    word = np.cumsum(space | (row["targets"] == EOS))
    for number in range(word[-1] + 1):
      assert len(set(row["weights"][word == number].tolist())) == 1
    shares.append(row["weights"].mean())
  # The longest word has six tokens with its space: nine tokens to fifteen.
  assert 0.09 < min(shares) and max(shares) <= 0.15
  assert np.mean(shares) > 0.12


def test_whole_words_of_pieces_begin_with_their_space():
  source = sources.MemorySource("words", {"train": {"text": [WORDS] * 9}})
  pieces = vocabularies.TrainedSentencePiece([source])
  starts = vocabularies.word_starts(pieces)
  tokens = pieces.encode("abc abcde\nabcd")
  words = [pieces.decode([t]) for t in tokens if starts[t]]
  assert len(words) == 3 and len(tokens) > 0
  assert all(starts[i] for i in (pieces.eos_id, pieces.vocab_size - 1))


def test_whole_words_need_a_vocabulary_that_tells_them():
  unknown = seqio.PassThroughVocabulary(size=300, eos_id=1)
  with pytest.raises(ValueError, match="cannot tell where words begin"):
    vocabularies.word_starts(unknown)


def test_each_reading_of_a_text_has_other_masks():
  rows = examples(MLM(), LENGTHS, *["a" * 99] * 50)
  assert len({tuple(row["weights"]) for row in rows}) == 50
  one = task("dynamic", MLM(), ["a" * 300] * 4, shuffle_buffer_size=1)
  dataset = one.get_dataset(LENGTHS, seed=0, num_epochs=3)
  masks = {tuple(row["weights"]) for row in dataset.as_numpy_iterator()}
  assert len(masks) > 30  # 12 windows an epoch and something over.


def test_replaced_tokens_are_told_from_the_original():
  rows = examples(ReplacedTokens(), LENGTHS, *[TEXT] * 3)[:-1]
  text = np.array([*BYTES.encode(TEXT), EOS] * 3)
  replaced = 0
  for i, row in enumerate(rows):
    window = text[i * 100 : (i + 1) * 100]
    original = row["inputs"] == window
    np.testing.assert_array_equal(original, row["targets"] == MASK)
    assert set(row["targets"]) <= {MASK, MASK - 1}
    np.testing.assert_array_equal(row["weights"] == 0, window == EOS)
    replaced += (~original).sum()
  # 15 of 100, of which one in 256 is what it was.
  assert abs(replaced / len(rows) - 15 * 255 / 256) < 0.1
