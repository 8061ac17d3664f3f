"""The loop samples the model's sequences, and nothing else sways it."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from t5x_lite.decoding import Greedy, Sample, generate, loop
from tests.decoding.markov import Markov, prompts

EOS = 1
#                           0     1    2    3
CHAIN = {"log_probs": jnp.log(jnp.array([
    [0.10, 0.20, 0.30, 0.40],
    [0.25, 0.25, 0.25, 0.25],
    [0.05, 0.15, 0.20, 0.60],
    [0.10, 0.50, 0.30, 0.10],
]))}  # fmt: skip


def test_greedy_follows_the_most_probable_path_to_eos():
  out = generate(
    Markov(), CHAIN, prompts([2], [3], [2, 3]), max_new_tokens=4, eos_id=EOS
  )
  assert out.tokens.tolist() == [[3, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
  assert out.lengths.tolist() == [2, 1, 1]
  np.testing.assert_allclose(
    np.exp(out.log_probs),
    [[0.6, 0.5, 1, 1], [0.5, 1, 1, 1], [0.5, 1, 1, 1]],
    rtol=1e-6,
  )


def test_without_eos_every_row_runs_to_the_end():
  out = generate(Markov(), CHAIN, prompts([3]), max_new_tokens=5)
  assert out.tokens.tolist() == [[1, 0, 3, 1, 0]]
  assert out.lengths.tolist() == [5]


def test_sequences_come_with_their_exact_probabilities():
  num_rows = 4000
  out = generate(
    Markov(),
    CHAIN,
    prompts(*[[2]] * num_rows),
    max_new_tokens=2,
    sampler=Sample(),
    key=jax.random.key(0),
    eos_id=EOS,
  )
  drawn = collections.Counter(map(tuple, out.tokens.tolist()))
  probs = np.exp(CHAIN["log_probs"])
  expected = {(1, 0): probs[2, 1]}
  for first in (0, 2, 3):
    for second in range(4):
      expected[first, second] = probs[2, first] * probs[first, second]
  assert set(drawn) <= set(expected)
  result = stats.chisquare(
    [drawn[s] for s in expected],
    np.array(list(expected.values()), np.float64) * num_rows,
    sum_check=False,
  )
  assert result.pvalue > 1e-4
  # The log-probabilities returned are those of the very sequences drawn.
  for tokens, log_probs in zip(
    out.tokens.tolist(), np.asarray(out.log_probs).sum(-1), strict=True
  ):
    np.testing.assert_allclose(
      np.exp(log_probs), expected[tuple(tokens)], rtol=1e-5
    )


def test_log_probs_are_the_models_whatever_the_sampler():
  out = generate(
    Markov(),
    CHAIN,
    prompts([2]),
    max_new_tokens=1,
    sampler=Sample(temperature=0.1, top_k=1),
    key=jax.random.key(0),
  )
  np.testing.assert_allclose(np.exp(out.log_probs), [[0.6]], rtol=1e-6)


def test_a_row_is_not_swayed_by_place_neighbours_or_padding_rows():
  def draw(rows, row_ids):
    out = generate(
      Markov(),
      CHAIN,
      prompts(*rows),
      max_new_tokens=12,
      sampler=Sample(),
      key=jax.random.key(3),
      eos_id=EOS,
      row_ids=jnp.array(row_ids),
    )
    return {
      i: (t, n)
      for i, t, n in zip(
        row_ids, out.tokens.tolist(), out.lengths.tolist(), strict=True
      )
      if i >= 0
    }

  together = draw([[2], [3], [2], [2, 2]], [5, 6, 7, 8])
  assert together[5] != together[7]  # same prompt, other id, other draws
  assert draw([[2]], [5]) == {5: together[5]}
  apart = draw([[2], [0], [3], [2, 2]], [7, -1, 6, 8])
  assert apart == {i: together[i] for i in (6, 7, 8)}


def test_padding_rows_stay_empty_and_the_loop_stops_with_the_last_row():
  steps = []
  model = Markov(on_step=lambda: steps.append(1))
  out = generate(
    model,
    CHAIN,
    prompts([2], [0], [3]),
    max_new_tokens=50,
    eos_id=EOS,
    row_ids=jnp.array([0, -1, 1]),
  )
  assert out.lengths.tolist() == [2, 0, 1]
  assert not out.tokens[1].any() and not out.log_probs[1].any()
  jax.effects_barrier()
  assert len(steps) == 1  # the first token needs no step, the second is EOS


def test_compiles_once_for_equal_shapes_and_settings():
  loop._generate.clear_cache()
  for seed in range(3):
    generate(
      Markov(),  # a new, equal model
      CHAIN,
      prompts([seed], [2]),
      max_new_tokens=3,
      sampler=Sample(top_k=2),
      key=jax.random.key(seed),
      eos_id=seed,
      row_ids=np.array([seed, seed + 1]),
    )
  assert loop._generate._cache_size() == 1


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match=r"max_new_tokens \(0\)"):
    generate(Markov(), CHAIN, prompts([2]), max_new_tokens=0)
  with pytest.raises(ValueError, match="pass key="):
    generate(Markov(), CHAIN, prompts([2]), max_new_tokens=1, sampler=Sample())
  assert generate(
    Markov(), CHAIN, prompts([2]), max_new_tokens=1, sampler=Greedy()
  )


WIDE = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.05, 0.3, 0.05]))
SAMPLERS = [
  Greedy(),
  Sample(),
  Sample(temperature=9.0),
  Sample(temperature=1e-3),
  Sample(top_k=1),
  Sample(top_k=5),
  Sample(top_p=0.9),
  Sample(top_p=0.1),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_what_is_no_token_never_comes_whatever_the_sampler(sampler):
  # Id 2 is a hole, and ids 4 and 5 round the model's vocabulary up.
  out = generate(
    Markov(),
    {"log_probs": jnp.tile(WIDE, (6, 1))},
    prompts(*[[3]] * 200),
    max_new_tokens=3,
    sampler=sampler,
    key=jax.random.key(0),
    drawable=np.array([True, True, False, True]),
  )
  drawn = set(np.unique(out.tokens).tolist())
  assert drawn <= {0, 1, 3} and 1 in drawn
  if sampler == Sample():
    counts = np.bincount(out.tokens.ravel(), minlength=4)[[0, 1, 3]]
    expected = np.array([0.1, 0.2, 0.05]) / 0.35 * counts.sum()
    assert stats.chisquare(counts, expected).pvalue > 1e-4
  # The model's own probabilities, whatever may be drawn.
  np.testing.assert_allclose(out.log_probs, WIDE[out.tokens], rtol=1e-6)
