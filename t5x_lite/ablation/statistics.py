"""What may be concluded from arms that were run with a few seeds.

The seed is the unit of the tests: two arms of one seed read the same documents,
so their difference is paired, and its spread over the seeds is what a repeat of
the study would see. Documents enter the intervals, which are of the mean over
seeds and documents both.
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
# The power at which the minimum detectable effect is stated.
_POWER = 0.8
_FITS = 100


@dataclasses.dataclass(frozen=True)
class Scores:
  """What one cell scored: a ratio of sums over documents, for each seed.

  Attributes:
    bits: [seeds, documents].
    size: what they are divided by, [seeds, documents].
  """

  bits: np.ndarray
  size: np.ndarray

  @property
  def by_seed(self) -> np.ndarray:
    """Returns the value of each seed, [seeds]."""
    return self.bits.sum(axis=1) / self.size.sum(axis=1)


def interval(cells: Sequence[Scores], others: Sequence[Scores] = ()) -> list:
  """Returns a 95% bootstrap interval of a mean, or of a paired difference.

  Seeds and documents are drawn anew, each with replacement and independently
  of the other; all cells see the same draws. Percentiles of the pigeonhole
  bootstrap of Owen 2007, arXiv:0711.2670; scipy's draws along one axis alone.

  Args:
    cells: over whose means the mean is taken.
    others: what is subtracted, likewise; none for the mean itself.
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
  """Returns "mean", "interval", "by_seed" and "seed_sd" of a cell."""
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
    cells: name -> scores, over the same seeds and documents.
    baseline: the cell that the others are compared with; None takes all pairs.

  Returns:
    For each pair "a", "b", "difference" (a - b), its "interval", "p" and
    "p_holm", corrected for the number of comparisons (Holm 1979), and whether
    it is "significant" at 5%; without repeats, p is None and nothing is.
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
  """Compares the options of an axis, whatever stands on the others.

  Each pair over the cells that both have, which differ in nothing else: the
  means over these are paired by the seed, as in `compare`. A grid has far fewer
  pairs of options than of cells, and a mean varies less than a cell.

  Args:
    cells: name -> scores, over the same seeds and documents.
    choices: name of a cell -> axis -> option.
    axis: whose options.

  Returns:
    What `compare` does, and "cells", over how many of each option.
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
  """Compares pairs that were chosen beforehand; returns what `compare` does.

  Args:
    pairs: title -> two names -> scores over the same seeds and documents; each
      result has its "title".
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
  """Corrects the tests for their number: Holm 1979."""
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
    return 1.0  # The very same runs: scipy divides by a spread of zero.
  with warnings.catch_warnings():
    # Differences that hardly vary are no reason to stop.
    warnings.simplefilter("ignore", RuntimeWarning)
    return float(stats.ttest_rel(a, b).pvalue)


def minimum_detectable_effect(cells: Mapping[str, Scores]) -> float | None:
  """Returns the difference that one test sees with a power of 80%.

  Of a single pair at 5%, whose differences spread as those of all pairs do in
  the mean (root of the mean square); None without repeats.
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
  """Fits loss = E + A / C^a, the form of Hoffmann et al. 2022.

  arXiv:2203.15556, section 3.3, along compute C: Huber's loss (delta 1e-3) of
  the logarithms. Intervals are of 100 fits to points drawn anew.

  Args:
    flops: of each run, of 3 sizes at least.
    loss: of each run.

  Returns:
    {"E", "A", "a": [estimate, low, high]}, with C in units of the smallest;
    None where there are fewer than 3 sizes, or less than 4 runs.
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
