"""Tests, corrections and intervals, against scipy and against coin tosses."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import multitest

from t5x_lite.ablation import statistics
from t5x_lite.ablation.statistics import Scores


def scores(by_seed, documents=12):
  size = np.full((len(by_seed), documents), 100.0)
  return Scores(size * np.asarray(by_seed, float)[:, None], size)


def test_a_value_is_a_ratio_of_sums():
  cell = Scores(np.array([[1.0, 9.0]]), np.array([[1.0, 4.0]]))
  assert cell.by_seed.tolist() == [2.0]


def test_p_is_that_of_a_paired_t_test_by_hand():
  a, b = [1.0, 1.2, 1.5], [1.1, 1.5, 1.6]
  differences = np.subtract(a, b)
  t = differences.mean() / (differences.std(ddof=1) / math.sqrt(3))
  (one,) = statistics.compare({"a": scores(a), "b": scores(b)})
  assert one["p"] == pytest.approx(2 * stats.t.sf(abs(t), df=2))
  assert one["difference"] == pytest.approx(differences.mean())


def test_holm_by_hand():
  cells = {
    "a": scores([1.0, 1.1, 1.2]),
    "b": scores([2.0, 2.11, 2.22]),
    "c": scores([1.05, 1.1, 1.3]),
  }
  found = statistics.compare(cells)
  ps = sorted(one["p"] for one in found)
  wanted = np.minimum(np.maximum.accumulate(np.multiply(ps, [3, 2, 1])), 1)
  assert sorted(one["p_holm"] for one in found) == pytest.approx(wanted)
  pairs = {(one["a"], one["b"]) for one in found if one["significant"]}
  assert pairs == {("a", "b"), ("b", "c")}


def test_a_baseline_is_compared_with_each_other():
  cells = {name: scores([1.0, 2.0]) for name in "abc"}
  pairs = [(o["a"], o["b"]) for o in statistics.compare(cells, "b")]
  assert pairs == [("a", "b"), ("c", "b")]


def test_options_are_compared_where_all_else_is_equal():
  seeds = {
    "small-clm": [1.0, 1.2, 1.5],
    "small-spans": [1.3, 1.4, 1.9],
    "large-clm": [0.8, 0.7, 1.0],
    "large-spans": [0.9, 1.1, 1.3],
    "huge-spans": [9.0, 9.0, 9.0],  # has no counterpart
  }
  cells = {name: scores(values) for name, values in seeds.items()}
  choices = {
    name: dict(zip(("size", "objective"), name.split("-"), strict=True))
    for name in cells
  }
  (one,) = statistics.compare_options(cells, choices, "objective")
  clm, spans = (
    (np.array(seeds[f"small-{o}"]) + seeds[f"large-{o}"]) / 2
    for o in ("clm", "spans")
  )
  assert (one["a"], one["b"], one["cells"]) == ("clm", "spans", 2)
  assert one["difference"] == pytest.approx((clm - spans).mean())
  assert one["p"] == pytest.approx(stats.ttest_rel(clm, spans).pvalue)
  low, high = one["interval"]
  assert low < one["difference"] < high < 0
  sizes = statistics.compare_options(cells, choices, "size")
  pairs = {(o["a"], o["b"]): o["cells"] for o in sizes}
  assert pairs == {
    ("small", "large"): 2, ("small", "huge"): 1, ("large", "huge"): 1,
  }  # fmt: skip


def test_the_same_runs_do_not_differ():
  same = scores([1.0, 1.1, 1.3])
  (one,) = statistics.compare({"a": same, "b": same})
  assert (
    one["p"] == 1.0 and not one["significant"] and one["interval"] == [0.0, 0.0]
  )


def test_one_seed_shows_nothing():
  (one,) = statistics.compare({"a": scores([1.0]), "b": scores([2.0])})
  assert one["p"] is None and not one["significant"]
  assert (
    statistics.minimum_detectable_effect({"a": scores([1]), "b": scores([2])})
    is None
  )


def test_equal_arms_are_found_equal_and_planted_differences_found():
  rng = np.random.default_rng(0)
  false, true = 0, 0
  for _ in range(200):
    texts = rng.normal(0, 0.2, 12)  # Easy and hard documents, seen by both.
    size = rng.integers(80, 120, 12)

    def arm(mean, texts=texts, size=size):
      runs = [mean + rng.normal(0, 0.01) + texts for _ in range(3)]
      return Scores(size * np.array(runs), np.tile(size, (3, 1)))

    a, b, c = (arm(mean).by_seed for mean in (2.0, 2.0, 1.8))
    false += statistics._paired_p(a, b) < 0.05
    true += statistics._paired_p(a, c) < 0.05
  assert false <= 20 and true >= 190


def test_intervals_cover_documents_and_seeds():
  rng = np.random.default_rng(1)
  size = np.full((5, 40), 100.0)
  bits = size * (2 + rng.normal(0, 0.3, 40) + rng.normal(0, 0.1, (5, 1)))
  low, high = statistics.interval([Scores(bits, size)])
  spread = math.hypot(0.3 / math.sqrt(40), 0.1 / math.sqrt(5))
  assert low < 2 < high
  assert 0.6 * 3.92 * spread < high - low < 1.5 * 3.92 * spread
  paired = statistics.interval([Scores(bits, size)], [Scores(bits + 10, size)])
  assert paired == pytest.approx([-0.1, -0.1])


def test_an_interval_over_seeds_alone_is_scipys():
  by_seed = np.random.default_rng(2).normal(2, 0.1, 8)
  found = stats.bootstrap(
    (by_seed,), np.mean, method="percentile", rng=np.random.default_rng(0)
  ).confidence_interval
  interval = statistics.interval([scores(by_seed, documents=1)])
  assert interval == pytest.approx([found.low, found.high], abs=0.005)


def test_the_minimum_detectable_effect_has_a_power_of_80_percent():
  a, b = [1.0, 1.2, 1.5, 1.1], [1.1, 1.5, 1.6, 1.0]
  spread = np.subtract(a, b).std(ddof=1)
  visible = statistics.minimum_detectable_effect(
    {"a": scores(a), "b": scores(b)}
  )
  shift = visible / spread * math.sqrt(4)
  limit = stats.t.ppf(0.975, df=3)
  power = stats.nct.sf(limit, 3, shift) + stats.nct.cdf(-limit, 3, shift)
  assert power == pytest.approx(0.8, abs=1e-3)


def test_a_scaling_law_is_recovered():
  flops = np.repeat([1e9, 3e9, 1e10, 1e11], 2)
  loss = 1.5 + 0.8 * (flops / 1e9) ** -0.35
  law = statistics.scaling_law(flops, loss)
  assert [law[key][0] for key in "EAa"] == pytest.approx(
    [1.5, 0.8, 0.35], rel=0.02
  )
  assert law["a"][1] <= law["a"][0] + 1e-3
  assert statistics.scaling_law([1, 2, 1, 2], [1, 2, 1, 2]) is None


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_holms_adjustment_is_statsmodels(count):
  p = np.random.default_rng(count).choice([1e-4, 0.01, 0.02, 0.4, 1.0], count)
  expected = p if not count else multitest.multipletests(p, method="holm")[1]
  np.testing.assert_allclose(statistics.holm(p), expected, rtol=1e-12)
