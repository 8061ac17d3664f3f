"""Beams find what an exhaustive search finds, groups what their paper says."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from t5x_lite.decoding import Beam, Constraints, Sample, generate
from tests.decoding.markov import Markov, prompts

VOCAB, EOS = 4, 0


def chain(seed=1):
  rng = np.random.default_rng(seed)
  return {"log_probs": jnp.log(rng.dirichlet(np.ones(VOCAB), VOCAB))}


LOG_PROBS = np.asarray(chain()["log_probs"])


def log_prob(start, tokens):
  return sum(LOG_PROBS[a, b] for a, b in itertools.pairwise((start, *tokens)))


def texts_of(found, row):
  return [
    tuple(tokens[:length].tolist())
    for tokens, length in zip(
      np.asarray(found.tokens[row]), found.lengths[row], strict=True
    )
  ]


@pytest.mark.parametrize(
  ("settings", "norm"),
  [
    ({"length_penalty": 1.0}, lambda n: n),
    ({"length_penalty": 0.6, "length_norm": "gnmt"},
     lambda n: ((5 + n) / 6) ** 0.6),
  ],
)  # fmt: skip
def test_with_room_for_all_texts_the_best_are_found(settings, norm):
  every = [
    t
    for n in (1, 2, 3)
    for t in itertools.product(range(VOCAB), repeat=n)
    if EOS not in t[:-1] and (n == 3 or t[-1] == EOS)
  ]
  beam = Beam(
    num_beams=len(every), early_stopping="never", num_return_sequences=5,
    **settings,
  )  # fmt: skip
  found = generate(
    Markov(), chain(), prompts([1], [2]), max_new_tokens=3, eos_id=EOS,
    sampler=beam,
  )  # fmt: skip
  for row, start in enumerate((1, 2)):
    scores = {t: log_prob(start, t) / norm(len(t)) for t in every}
    best = sorted(every, key=lambda t: -scores[t])[:5]
    assert texts_of(found, row) == best
    np.testing.assert_allclose(
      found.scores[row], [scores[t] for t in best], rtol=1e-5
    )
    np.testing.assert_allclose(
      np.asarray(found.log_probs[row]).sum(-1),
      [log_prob(start, t) for t in best], rtol=1e-5,
    )  # fmt: skip


def diverse(start, *, groups, width, penalty, length):
  """Algorithm 1 of arXiv:1610.02424, with Hamming diversity, in lists."""
  running = [[((), 0.0)] for _ in range(groups)]
  ended = [[] for _ in range(groups)]
  for step in range(length):
    chosen = np.zeros(VOCAB)
    for g in range(groups):
      candidates = []
      for tokens, score in running[g]:
        for v in range(VOCAB):
          added = LOG_PROBS[(start, *tokens)[-1], v] - penalty * chosen[v]
          candidates.append(((*tokens, v), score + added))
      candidates = sorted(candidates, key=lambda c: -c[1])[: 2 * width]
      is_last = step == length - 1
      ended[g] += [c for c in candidates[:width] if c[0][-1] == EOS or is_last]
      running[g] = [c for c in candidates if c[0][-1] != EOS][:width]
      for tokens, _ in running[g]:
        chosen[tokens[-1]] += 1
  best = [sorted(of, key=lambda c: -c[1])[:width] for of in ended]
  return sorted(itertools.chain(*best), key=lambda c: -c[1])


@pytest.mark.parametrize("penalty", [0.0, 0.5, 3.0])
def test_groups_are_those_of_the_papers_algorithm(penalty):
  settings = {"groups": 3, "length": 4, "width": 2, "penalty": penalty}
  beam = Beam(
    num_beams=6, groups=3, diversity_penalty=penalty, num_return_sequences=6,
    early_stopping="never", length_penalty=0.0,
  )  # fmt: skip
  found = generate(
    Markov(), chain(), prompts([1], [2]), max_new_tokens=4, eos_id=EOS,
    sampler=beam,
  )  # fmt: skip
  for row, start in enumerate((1, 2)):
    expected = diverse(start, **settings)
    np.testing.assert_allclose(
      found.scores[row], [score for _, score in expected], rtol=1e-5
    )
    assert sorted(texts_of(found, row)) == sorted(t for t, _ in expected)
  different = len({*texts_of(found, 0)})
  assert different == 2 if penalty == 0 else different > 3


def test_samples_of_beams_are_drawn_without_replacement():
  rows = 4000
  p = np.exp(LOG_PROBS[1].astype(np.float64)) ** (1 / 0.7)
  p /= p.sum()
  found = generate(
    Markov(), chain(), prompts(*[[1]] * rows), max_new_tokens=1,
    sampler=Beam(
      num_beams=2, num_return_sequences=2, sample=Sample(temperature=0.7)
    ),
    key=jax.random.key(0),
  )  # fmt: skip
  drawn = np.sort(np.asarray(found.tokens)[..., 0], axis=1)
  pairs = list(itertools.combinations(range(VOCAB), 2))
  counts = [(drawn == pair).all(1).sum() for pair in pairs]
  expected = [p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) for i, j in pairs]
  assert sum(counts) == rows
  assert stats.chisquare(counts, np.array(expected) * rows).pvalue > 1e-4


def test_what_sampling_leaves_out_no_beam_has():
  found = generate(
    Markov(), chain(), prompts(*[[1]] * 50), max_new_tokens=3,
    sampler=Beam(num_beams=3, sample=Sample(top_k=1)), key=jax.random.key(0),
  )  # fmt: skip
  greedy = generate(Markov(), chain(), prompts([1]), max_new_tokens=3)
  assert (found.tokens == greedy.tokens).all()
  np.testing.assert_allclose(found.log_probs, greedy.log_probs.repeat(50, 0))


def test_a_row_is_not_swayed_by_its_neighbours_and_padding_stays_empty():
  def search(rows, ids):
    found = generate(
      Markov(), chain(), prompts(*rows), max_new_tokens=4, eos_id=EOS,
      sampler=Beam(num_beams=2, sample=Sample()), key=jax.random.key(0),
      row_ids=jnp.array(ids),
    )  # fmt: skip
    return found, {
      i: t for i, t in zip(ids, found.tokens.tolist(), strict=True)
    }

  _, together = search([[1], [2], [3], [1]], [0, 1, 2, 3])
  found, apart = search([[3], [0], [1], [1]], [2, -1, 3, 0])
  assert all(apart[i] == together[i] for i in (0, 2, 3))
  assert not found.tokens[1].any() and found.lengths[1] == 0


def test_a_beam_of_one_is_greedy():
  options = {"max_new_tokens": 4, "eos_id": EOS}
  given = Markov(), chain(), prompts([1], [2], [3])
  beam = generate(*given, **options, sampler=Beam(num_beams=1))
  greedy = generate(*given, **options)
  # It goes on where the most probable token ends the text.
  same = np.asarray(greedy.lengths) == 4
  assert same.any()
  assert (beam.tokens[same] == greedy.tokens[same]).all()


def test_a_maximum_length_with_the_prompt_ends_each_row_in_time():
  found = generate(
    Markov(), chain(), prompts([1], [2, 3]), max_new_tokens=4,
    sampler=Beam(num_beams=2), constraints=Constraints(max_length=5),
  )  # fmt: skip
  assert found.lengths.tolist() == [3, 2]


@pytest.mark.parametrize(
  ("settings", "said"),
  [
    ({"num_beams": 0}, r"num_beams \(0\) must be at least 1"),
    ({"num_beams": 5000}, r"num_beams \(5000\) must be at most 1000"),
    ({"num_beams": 4, "groups": 3}, r"num_beams \(4\) must be divisible by g"),
    ({"diversity_penalty": 1.0}, r"diversity_penalty \(1.0\) is between"),
    ({"groups": 2, "sample": Sample()}, r"groups \(2\) of beams do not sample"),
    ({"num_return_sequences": 5}, r"num_return_sequences \(5\) must be at"),
    ({"early_stopping": "always"}, r"early_stopping \('always'\) must be of"),
    ({"length_norm": "words"}, r"length_norm \('words'\) must be of type"),
  ],
)  # fmt: skip
def test_mistakes_are_told(settings, said):
  with pytest.raises(ValueError, match=said):
    Beam(**settings)


def test_drawing_beams_need_a_key():
  with pytest.raises(ValueError, match="pass key="):
    generate(
      Markov(), chain(), prompts([1]), max_new_tokens=1,
      sampler=Beam(sample=Sample()),
    )  # fmt: skip
