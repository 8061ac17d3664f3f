"""CM3 moves spans to the end, and nothing is lost on the way."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tasks import cm3
from tasks.cm3 import CM3
from tests.tasks.streams import BYTES, examples
from tests.tasks.test_spans import many

EOS = 1
FIRST = BYTES.vocab_size - 1
LENGTHS = {"targets": 80, "weights": 80}
TEXT = "".join(chr(97 + i % 26) for i in range(20_000))


def restore(row):
  """Puts each span back; returns the text and the spans' number."""
  targets = row["targets"].tolist()
  count = sum(token >= 259 for token in targets) // 2
  ids = [FIRST - i for i in range(count)]
  # The second time that the first sentinel comes, the text is at its end.
  end = targets.index(FIRST, targets.index(FIRST) + 1)
  text, moved = targets[:end], targets[end:]
  assert [token for token in text if token >= 259] == ids
  found = {}
  for i, token in enumerate(ids):
    last = moved.index(token - 1) if i + 1 < count else len(moved)
    assert moved.index(token) == 0 and moved[last - 1] == EOS
    found[token], moved = moved[1 : last - 1], moved[last:]
  return [t for token in text for t in found.get(token, [token])], count


def test_spans_put_back_restore_the_text():
  rows = examples(CM3(), LENGTHS, TEXT)
  text = [*BYTES.encode(TEXT), EOS]
  for i, row in enumerate(rows[:-1]):
    restored, count = restore(row)
    window = text[i * 77 : (i + 1) * 77]
    # Three tokens for each span but the first.
    assert restored == window[: 77 - 3 * (count - 1)]
    assert len(row["targets"]) == 80


def test_sentinels_alone_bear_no_loss():
  for row in examples(CM3(), LENGTHS, TEXT):
    np.testing.assert_array_equal(row["weights"] == 0, row["targets"] >= 259)


def test_the_number_of_spans_is_poisson_but_one_at_least():
  rows = examples(CM3(max_spans=3), LENGTHS, *[TEXT] * 2)
  counts = np.bincount([restore(row)[1] for row in rows], minlength=4)
  poisson = scipy.stats.poisson(1)
  shares = [poisson.cdf(1), poisson.pmf(2), poisson.sf(2)]
  expected = np.array(shares) * len(rows)
  assert scipy.stats.chisquare(counts[1:], expected).pvalue > 1e-3


def test_spans_are_what_rejecting_overlaps_leaves():
  drawn = many(lambda s: tf.stack(cm3.draw_spans(9, 2, seed=s[0])), 4000)
  counts = {}
  for starts, lengths in drawn:
    key = (*starts.tolist(), *lengths.tolist())
    counts[key] = counts.get(key, 0) + 1
  # Two pairs of cuts drawn until they do not overlap (touching is allowed).
  rng = np.random.default_rng(1)
  pairs = np.sort(rng.integers(0, 10, (200_000, 2, 2)), axis=-1)
  pairs = pairs[np.arange(len(pairs))[:, None], pairs[:, :, 0].argsort(1)]
  kept = pairs[pairs[:, 0, 1] < pairs[:, 1, 0]]
  # Cuts that fall together are ties of either; compare where there are none.
  lengths = np.array([key for key in counts for _ in range(counts[key])])
  apart = lengths[lengths[:, 0] + lengths[:, 2] < lengths[:, 1]]
  for ours, theirs in (
    (apart[:, 2], kept[:, 0, 1] - kept[:, 0, 0]),
    (apart[:, 0], kept[:, 0, 0]),
  ):
    expected = np.bincount(theirs, minlength=10) / len(theirs)
    found = np.bincount(ours, minlength=10)
    likely = expected > 0.002
    statistic = ((found - expected * len(ours)) ** 2)[likely]
    statistic = (statistic / (expected * len(ours))[likely]).sum()
    assert scipy.stats.chi2(likely.sum()).sf(statistic) > 1e-3


@pytest.mark.parametrize(
  ("objective", "length", "message"),
  [
    (CM3(), 63, r"63 targets has no room for max_spans \(16\): set 64"),
    (CM3(max_spans=126), 900, "needs 126 sentinels, more than .* 125"),
  ],
)
def test_what_does_not_fit_is_refused(objective, length, message):
  with pytest.raises(ValueError, match=message):
    examples(objective, {"targets": length, "weights": length}, TEXT)


def test_settings_without_sense_are_refused():
  with pytest.raises(ValueError, match=r"mean_spans \(-1\) must be at least 0"):
    CM3(mean_spans=-1)
  with pytest.raises(ValueError, match=r"max_spans \(0\) must be at least 1"):
    CM3(max_spans=0)
