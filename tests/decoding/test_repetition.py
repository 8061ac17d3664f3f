"""Repetition, Phrases and Trie treat tokens as stated, in NumPy and by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.decoding import (
  Beam,
  Constraints,
  Phrases,
  Repetition,
  Trie,
  generate,
)
from t5x_lite.decoding.texts import Texts
from tests.decoding.markov import Markov, prompts

VOCAB = 5


def chain(seed=0):
  rng = np.random.default_rng(seed)
  return {"log_probs": jnp.log(rng.dirichlet(np.ones(VOCAB), VOCAB))}


def test_texts_join_prompts_of_different_lengths_and_what_follows():
  given = Texts(jnp.array([[7, 8, 9], [4, 0, 0]]), jnp.array([3, 1]))
  joined = given.continued(jnp.array([[1, 2, 0], [3, 5, 0]]), 2)
  assert joined.length_B.tolist() == [5, 3]
  assert joined.tokens_BS[0, :5].tolist() == [7, 8, 9, 1, 2]
  assert joined.tokens_BS[1, :3].tolist() == [4, 3, 5]
  assert joined.suffix(4).tolist() == [[8, 9, 1, 2], [-1, 4, 3, 5]]
  assert joined.suffix(0).shape == (2, 0)


def test_presence_is_of_generated_tokens_alone_and_counts_once():
  texts = Texts(jnp.array([[4, 1, 2, 2, 3]]), jnp.array([4]))
  logits = Repetition(presence_penalty=0.5).apply(
    jnp.zeros((1, VOCAB)), texts, jnp.array([2])
  )
  assert logits.tolist() == [[0, 0, -0.5, 0, 0]]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_comes_twice(size):
  found = generate(
    Markov(), chain(), prompts([1], [2, 1, 2], [3]), max_new_tokens=9,
    constraints=Constraints(repetition=Repetition(no_repeat_ngram_size=size)),
  )  # fmt: skip
  for given, tokens, length in zip(
    ([0, 1], [0, 2, 1, 2], [0, 3]), found.tokens, found.lengths, strict=True
  ):
    text = [*given, *tokens[:length].tolist()]
    grams = [tuple(text[i : i + size]) for i in range(len(text) - size + 1)]
    old = len(given) - size + 1
    assert all(g not in grams[:i] for i, g in enumerate(grams) if i >= old)
  # Once every token has come, a text of single tokens ends.
  assert (found.lengths.max() == 9) == (size > 1)


def test_bad_words_may_begin_in_the_prompt():
  likely = {"log_probs": jnp.log(jnp.full((4, 4), 0.1).at[:, 3].set(0.7))}
  found = generate(
    Markov(), likely, prompts([2, 1], [1, 1]), max_new_tokens=3,
    constraints=Constraints(phrases=Phrases(banned=[(2, 1, 3), (3, 3)])),
  )  # fmt: skip
  assert found.tokens.tolist() == [[0, 3, 0], [3, 0, 3]]


SEQUENCES = [(1, 2, 3), (1, 2), (4,), (2, 2, 2, 4), (1, 3)]


@pytest.mark.parametrize("beams", [1, 6])
def test_texts_among_some_are_all_and_only_those(beams):
  found = generate(
    Markov(), chain(), prompts([1], [3, 2]), max_new_tokens=6, eos_id=0,
    sampler=Beam(
      num_beams=beams, num_return_sequences=beams, early_stopping="never",
      length_penalty=0.0,
    ),
    constraints=Constraints(among=Trie(SEQUENCES)),
  )  # fmt: skip
  log_probs = np.asarray(chain()["log_probs"])

  def log_prob(start, sequence):
    steps = zip((start, *sequence), (*sequence, 0), strict=True)
    return sum(log_probs[a, b] for a, b in steps)

  for row, start in enumerate((1, 2)):
    ranked = sorted(SEQUENCES, key=lambda s: -log_prob(start, s))
    texts = [
      tuple(t[: n - 1].tolist())
      for t, n in zip(found.tokens[row], found.lengths[row], strict=True)
      if n
    ]
    if beams == 1:
      assert texts[0] in SEQUENCES
      continue
    assert texts == ranked
    np.testing.assert_allclose(
      found.scores[row, :5], [log_prob(start, s) for s in ranked], rtol=1e-5
    )
    assert found.scores[row, 5] == -np.inf


def test_a_forced_first_token_comes_before_one_of_the_texts():
  found = generate(
    Markov("encoder_decoder"), chain(),
    {"encoder_input_tokens": jnp.array([[1, 2]]),
     "encoder_segment_ids": jnp.array([[1, 1]])},
    max_new_tokens=4, eos_id=0,
    constraints=Constraints(first=3, among=Trie([(4, 2)])),
  )  # fmt: skip
  assert found.tokens.tolist() == [[3, 4, 2, 0]]


@pytest.mark.parametrize(
  ("make", "said"),
  [
    (lambda: Trie([]), r"Trie.sequences \(\[\]\) must have at least one"),
    (lambda: Trie([(1,), ()]), "none without tokens"),
    (lambda: Phrases(banned=[()]), r"banned \(\[\(\)\]\) has a phrase without"),
    (lambda: Repetition(penalty=0.0), r"penalty \(0.0\) must be above 0"),
    (lambda: Repetition(no_repeat_ngram_size=-1), r"\(-1\) must be at least 0"),
    (
      lambda: generate(
        Markov(), chain(), prompts([1]), max_new_tokens=2,
        constraints=Constraints(among=Trie([(1, 9)])),
      ),
      "among has the id 9, which is not one of the 5 tokens",
    ),
  ],
)  # fmt: skip
def test_mistakes_are_told(make, said):
  with pytest.raises(ValueError, match=said):
    make()
