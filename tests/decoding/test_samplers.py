"""Samplers draw from the distributions that they name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from t5x_lite.decoding import Greedy, Sample

LOGITS = jnp.array([1.0, 3.0, 0.0, 2.0, 2.5])


def counts(sampler, logits, num_draws=4000):
  draws = sampler(
    jnp.broadcast_to(logits, (num_draws, len(logits))), jax.random.key(0)
  )
  return np.bincount(draws, minlength=len(logits))


def check(counts, probs):
  """Chi-square at 1e-4 inside the support, and nothing outside of it."""
  probs = np.asarray(probs, np.float64)
  inside = probs > 0
  assert counts[~inside].sum() == 0
  if inside.sum() == 1:
    return
  expected = probs[inside] / probs.sum() * counts.sum()
  assert stats.chisquare(counts[inside], expected).pvalue > 1e-4


def test_greedy_takes_the_most_probable_and_of_equals_the_lowest_id():
  logits = jnp.array([[0.0, 2.0, 1.0], [1.0, 3.0, 3.0]])
  assert Greedy()(logits, jax.random.key(0)).tolist() == [1, 1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_the_logits(temperature):
  sampler = Sample(temperature=temperature)
  check(counts(sampler, LOGITS), jax.nn.softmax(LOGITS / temperature))


def test_a_tiny_temperature_is_greedy_and_makes_no_nan():
  sampler = Sample(temperature=1e-30)
  assert counts(sampler, LOGITS).tolist() == [0, 4000, 0, 0, 0]


def test_top_k_keeps_k_and_their_proportions():
  probs = np.exp(LOGITS) * np.array([0, 1, 0, 1, 1])
  check(counts(Sample(top_k=3), LOGITS), probs)


def test_of_equal_logits_top_k_keeps_exactly_k_the_lower_ids():
  logits = jnp.array([0.0, 1.0, 1.0, 1.0, 0.0])
  check(counts(Sample(top_k=2), logits), [0, 1, 1, 0, 0])


def test_top_k_above_the_vocabulary_keeps_all():
  check(counts(Sample(top_k=99), LOGITS), jax.nn.softmax(LOGITS))


@pytest.mark.parametrize("p, kept", [(0.49, 1), (0.51, 2), (0.82, 3), (1.0, 4)])
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, kept):
  probs = np.array([0.0625, 0.5, 0.125, 0.3125])  # sums 0.5, 0.8125, 0.9375
  largest = np.array([1, 3, 2, 0])[:kept]
  expected = np.zeros(4)
  expected[largest] = probs[largest]
  check(counts(Sample(top_p=p), jnp.log(probs)), expected)


def test_of_equal_tokens_top_p_keeps_as_many_as_it_needs_the_lower_ids():
  logits = jnp.log(jnp.array([0.1, 0.2, 0.2, 0.2, 0.2, 0.1]))
  check(counts(Sample(top_p=0.5), logits), [0, 1, 1, 1, 0, 0])


def test_top_p_counts_mass_after_temperature_and_top_k():
  # Of the two that top_k keeps, the larger has 0.73 of their mass.
  logits = jnp.array([2.0, 4.0, 0.0, 0.0])
  check(counts(Sample(temperature=2, top_k=2, top_p=0.7), logits), [0, 1, 0, 0])
  check(
    counts(Sample(temperature=2, top_k=2, top_p=0.75), logits),
    [np.e, np.e**2, 0, 0],
  )


def test_min_p_keeps_tokens_by_their_ratio_to_the_most_probable():
  probs = np.array([0.05, 0.5, 0.2, 0.15, 0.1])
  expected = probs * (probs >= 0.3 * 0.5)
  check(counts(Sample(min_p=0.29), jnp.log(probs)), expected)
  check(counts(Sample(min_p=1.0), jnp.log(probs)), probs * (probs == 0.5))
  check(counts(Sample(min_p=0.0), jnp.log(probs)), probs)


def test_typical_p_keeps_tokens_of_nearly_the_entropy():
  # The entropy is 1.37 nats: of -log p, 0.69 1.61 1.90 2.30 3.00, the nearest
  # are the second, the third and then the first.
  probs = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
  for p, kept in ((0.19, 1), (0.21, 2), (0.36, 3), (0.86, 4), (0.99, 5)):
    expected = np.zeros(5)
    nearest = np.argsort(np.abs(-np.log(probs) + probs @ np.log(probs)))[:kept]
    expected[nearest] = probs[nearest]
    check(counts(Sample(typical_p=p), jnp.log(probs)), expected)


def test_truncated_logits_keep_their_values():
  logits = jnp.array([[1.0, 3.0, 0.0, 2.0, 2.5]])
  out = Sample(temperature=2.0, top_k=3, top_p=0.7).truncated(logits)
  assert out.tolist() == [[-np.inf, 1.5, -np.inf, -np.inf, 1.25]]


def support(sampler, logits_BV, num_draws=600):
  keys = jax.random.split(jax.random.key(1), num_draws)
  draws = jax.vmap(sampler, (None, 0))(logits_BV, keys)
  return [set(row.tolist()) for row in np.asarray(draws).T]


@pytest.mark.parametrize(
  "settings",
  [
    {"top_k": 5}, {"top_p": 0.2}, {"top_p": 0.7},
    {"temperature": 2.0, "top_k": 8, "top_p": 0.8}, {"min_p": 0.3},
    {"typical_p": 0.6}, {"top_k": 9, "min_p": 0.05, "typical_p": 0.7},
  ],
)  # fmt: skip
def test_support_is_that_of_the_transformers_package(settings):
  import torch
  from transformers.generation import logits_process as hf

  logits = np.random.default_rng(0).normal(0, 1, (40, 12)).astype(np.float32)
  theirs = torch.from_numpy(logits) / settings.get("temperature", 1.0)
  if "top_k" in settings:
    theirs = hf.TopKLogitsWarper(settings["top_k"])(None, theirs)
  if "top_p" in settings:
    theirs = hf.TopPLogitsWarper(settings["top_p"])(None, theirs)
  if "min_p" in settings:
    theirs = hf.MinPLogitsWarper(settings["min_p"])(None, theirs)
  if "typical_p" in settings:
    theirs = hf.TypicalLogitsWarper(settings["typical_p"])(None, theirs)
  kept = [set(np.flatnonzero(row).tolist()) for row in (theirs > -1e30).numpy()]
  ours = support(Sample(**settings), jnp.asarray(logits))
  # 600 draws may miss a rare token but can never leave the support.
  assert all(a <= b for a, b in zip(ours, kept, strict=True))
  assert sum(map(len, ours)) >= 0.97 * sum(map(len, kept))


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"temperature": 0.0}, r"temperature \(0.0\) must be above 0"),
    ({"top_k": 0}, r"top_k \(0\)"),
    ({"top_k": 2.5}, r"top_k \(2.5\)"),
    ({"top_p": 0.0}, r"top_p \(0.0\)"),
    ({"top_p": 1.5}, r"top_p \(1.5\)"),
    ({"min_p": -0.1}, r"min_p \(-0.1\)"),
    ({"typical_p": 0.0}, r"typical_p \(0.0\)"),
  ],
)
def test_settings_out_of_range_are_refused_by_name(settings, message):
  with pytest.raises(ValueError, match=message):
    Sample(**settings)
