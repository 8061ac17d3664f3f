"""Tests the differences between arms that were run with a few seeds.

The seed is the unit of the tests. Two arms of one seed read the same documents,
so their difference is paired, and its spread over seeds is the spread over
repeats of the study. Confidence intervals are of the mean over both seeds and
documents.
"""

import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize, stats
from statsmodels.stats import power

CONFIDENCE = 0.95
_RESAMPLES = 4000
# The power of the minimum detectable effect.
_POWER = 0.8
_FITS = 100


@dataclasses.dataclass(frozen=True)
class Scores:
  """Holds a cell's scores: for each seed, a ratio of sums over documents.

  Attributes:
    bits: the numerators, [seeds, documents].
    size: the denominators, [seeds, documents].
  """

  bits: np.ndarray
  size: np.ndarray

  @property
  def by_seed(self) -> np.ndarray:
    """Returns each seed's score, [seeds]."""
    return self.bits.sum(axis=1) / self.size.sum(axis=1)


def interval(cells: Sequence[Scores], others: Sequence[Scores] = ()) -> list:
  """Returns a 95% bootstrap interval of a mean, or of a paired difference.

  The percentile interval of the pigeonhole bootstrap, Owen 2007,
  arXiv:0711.2670: seeds and documents are resampled with replacement,
  independently of each other, with the same draws for all cells. (scipy's
  bootstrap resamples along one axis only.)

  Args:
    cells: the cells whose means are averaged.
    others: the cells whose average is subtracted; empty for the mean itself.
  """
  num_seeds = len(cells[0].bits)
  seeds_RS, documents_RD = _resamples(*cells[0].bits.shape)

  def means(cell):
    values_SR = (cell.bits @ documents_RD.T) / (cell.size @ documents_RD.T)
    return np.sum(seeds_RS * values_SR.T, axis=1) / num_seeds

  draws = np.mean([means(cell) for cell in cells], axis=0)
  if others:
    draws -= np.mean([means(cell) for cell in others], axis=0)
  tail = 100 * (1 - CONFIDENCE) / 2
  return [float(x) for x in np.percentile(draws, [tail, 100 - tail])]


@functools.lru_cache(maxsize=8)
def _resamples(*counts: int) -> list[np.ndarray]:
  """Returns how often each of `count` things is drawn, [resamples, count]."""
  rng = np.random.default_rng(0)
  return [
    rng.multinomial(count, np.full(count, 1 / count), _RESAMPLES)
    for count in counts
  ]


def summary(scores: Scores) -> dict[str, Any]:
  """Returns a cell's "mean", "interval", "by_seed" and "seed_sd"."""
  by_seed = scores.by_seed
  return {
    "mean": float(by_seed.mean()),
    "interval": interval([scores]),
    "by_seed": [float(x) for x in by_seed],
    "seed_sd": float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
  }


def compare(
  cells: Mapping[str, Scores], baseline: str | None = None
) -> list[dict[str, Any]]:
  """Compares cells pairwise, by paired t-tests over the seeds.

  Args:
    cells: {name: scores}, over the same seeds and documents.
    baseline: the cell that the others are compared with; None compares all
      pairs.

  Returns:
    For each pair, "a", "b", "difference" (a - b), its "interval", "p",
    "p_holm" (corrected for the number of comparisons, Holm 1979), and
    "significant" (at 5%). With one seed, "p" is None and nothing is
    significant.
  """
  pairs = list(itertools.combinations(cells, 2))
  if baseline is not None:
    pairs = [(name, baseline) for name in cells if name != baseline]
  return _corrected(
    [_difference(a, b, [cells[a]], [cells[b]]) for a, b in pairs]
  )


def compare_options(
  cells: Mapping[str, Scores],
  choices: Mapping[str, Mapping[str, str]],
  axis: str,
) -> list[dict[str, Any]]:
  """Compares the options of an axis, averaged over the other axes.

  A pair of options is compared on the pairs of cells that differ only in this
  axis: their means are paired by seed, as in `compare`. A grid has far fewer
  pairs of options than of cells, and a mean varies less than one cell.

  Args:
    cells: {name: scores}, over the same seeds and documents.
    choices: {name of a cell: {axis: option}}.
    axis: the axis to compare.

  Returns:
    The results of `compare`, and "cells", the number of cells per option.
  """
  by_option = {}
  for name, scores in cells.items():
    rest = tuple(v for k, v in choices[name].items() if k != axis)
    by_option.setdefault(choices[name][axis], {})[rest] = scores
  found = []
  for a, b in itertools.combinations(by_option, 2):
    both = [rest for rest in by_option[a] if rest in by_option[b]]
    if both:
      sides = [[by_option[name][rest] for rest in both] for name in (a, b)]
      found.append(_difference(a, b, *sides) | {"cells": len(both)})
  return _corrected(found)


def contrast(
  pairs: Mapping[str, Mapping[str, Scores]],
) -> list[dict[str, Any]]:
  """Compares preregistered pairs of cells.

  Args:
    pairs: {title: {name: scores}}, two each, over the same seeds and documents.

  Returns:
    The results of `compare`, each with its "title".
  """
  return _corrected([
    _difference(a, b, [two[a]], [two[b]]) | {"title": title}
    for title, two in pairs.items()
    for a, b in [two]
  ])  # fmt: skip


def _difference(a, b, cells, others) -> dict[str, Any]:
  ours, theirs = (
    np.mean([cell.by_seed for cell in side], axis=0) for side in (cells, others)
  )
  return {
    "a": a,
    "b": b,
    "difference": float((ours - theirs).mean()),
    "interval": interval(cells, others),
    "p": _paired_p(ours, theirs),
    "p_holm": None,
    "significant": False,
  }


def _corrected(found) -> list[dict[str, Any]]:
  """Corrects p-values for the number of tests: Holm 1979."""
  tested = [one for one in found if one["p"] is not None]
  for one, p in zip(tested, holm([one["p"] for one in tested]), strict=True):
    one |= {"p_holm": p, "significant": p <= 1 - CONFIDENCE}
  return found


def holm(p: Sequence[float]) -> list[float]:
  """Returns p-values adjusted for their number: Holm 1979, step-down.

  As statsmodels' multipletests, which collects Python's garbage at every call:
  half a second each with JAX and TensorFlow loaded.
  """
  order = np.argsort(p)
  steps = np.arange(len(p), 0, -1) * np.asarray(p)[order]
  adjusted = np.empty(len(p))
  adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
  return adjusted.tolist()


def _paired_p(a, b) -> float | None:
  if len(a) < 2:
    return None
  if np.allclose(a, b, rtol=0, atol=1e-12):
    return 1.0  # Identical runs: scipy would divide by a spread of zero.
  with warnings.catch_warnings():
    # scipy warns about differences that hardly vary; the result is fine.
    warnings.simplefilter("ignore", RuntimeWarning)
    return float(stats.ttest_rel(a, b).pvalue)


def minimum_detectable_effect(cells: Mapping[str, Scores]) -> float | None:
  """Returns the difference that one test at 5% detects with a power of 80%.

  The spread of the pair's differences is taken to be the root mean square over
  all pairs. Returns None with one seed.
  """
  spreads = [
    (cells[a].by_seed - cells[b].by_seed).var(ddof=1)
    for a, b in itertools.combinations(cells, 2)
    if len(cells[a].by_seed) > 1
  ]
  if not spreads:
    return None
  count = len(next(iter(cells.values())).by_seed)
  effect = power.TTestPower().solve_power(
    nobs=count, alpha=1 - CONFIDENCE, power=_POWER
  )
  return float(np.atleast_1d(effect)[0] * math.sqrt(np.mean(spreads)))


def scaling_law(flops: Sequence[float], loss: Sequence[float]) -> dict | None:
  """Fits the scaling law loss = E + A / C^a, with C the compute.

  The form and fit of Hoffmann et al. 2022, arXiv:2203.15556, section 3.3: Huber
  loss (delta 1e-3) on the logarithms. Intervals come from 100 fits to resampled
  runs.

  Args:
    flops: the training FLOPs of each run, of at least 3 sizes.
    loss: the loss of each run.

  Returns:
    {"E", "A", "a": [estimate, low, high]}, with C in units of the smallest;
    None if there are fewer than 3 sizes or fewer than 4 runs.
  """
  flops, loss = np.asarray(flops, float), np.asarray(loss, float)
  if not np.isfinite(flops).all():
    return None
  if len(set(flops)) < 3 or len(flops) < 4:
    return None
  unit = flops.min()

  def fit(rows, starts):
    c, y = np.log(flops[rows] / unit), np.log(loss[rows])

    def residuals(parameters):
      log_e, log_a, a = parameters
      return np.logaddexp(log_e, log_a - a * c) - y

    fits = [
      optimize.least_squares(
        residuals, start, loss="huber", f_scale=1e-3,
        bounds=([-20, -20, 0], [20, 20, 5]),
      )
      for start in starts
    ]  # fmt: skip
    return min(fits, key=lambda found: found.cost).x

  everything = np.arange(len(flops))
  starts = [
    (math.log(loss.min() * share), math.log(loss.max() * (1 - share)), a)
    for share in (0.3, 0.6, 0.9)
    for a in (0.1, 0.4, 1.0)
  ]
  best = fit(everything, starts)
  rng = np.random.default_rng(0)
  draws = []
  while len(draws) < _FITS:
    rows = rng.choice(everything, len(everything))
    if len(set(flops[rows])) >= 3:
      draws.append(fit(rows, [best]))
  tail = 100 * (1 - CONFIDENCE) / 2
  low, high = np.percentile(draws, [tail, 100 - tail], axis=0)
  values = [
    [float(v) for v in (math.exp(x), math.exp(y), z)]
    for x, y, z in (best, low, high)
  ]
  return {
    name: [one[i] for one in values] for i, name in enumerate(("E", "A", "a"))
  }
