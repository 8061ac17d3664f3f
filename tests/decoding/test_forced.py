"""Beams find the best texts that have the forced phrases."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.decoding import (
  GREEDY,
  Beam,
  Constraints,
  Phrases,
  Sample,
  generate,
)
from tests.decoding.markov import Markov, prompts

EOS, VOCAB, LENGTH = 0, 4, 4


def chain(vocab=VOCAB):
  logits = 3 * jax.random.normal(jax.random.key(4), (vocab, vocab))
  return {"log_probs": jax.nn.log_softmax(logits)}


def has(text, phrase):
  return any(
    tuple(text[i : i + len(phrase)]) == phrase for i in range(len(text))
  )


def search(beams, forced, *, rows, length=LENGTH, vocab=VOCAB, **settings):
  found = generate(
    Markov(), chain(vocab), prompts(*rows), max_new_tokens=length, eos_id=EOS,
    sampler=Beam(num_beams=beams, num_return_sequences=beams, **settings),
    constraints=Constraints(phrases=Phrases(forced=forced)),
  )  # fmt: skip
  tokens, lengths = np.asarray(found.tokens), np.asarray(found.lengths)
  texts = [
    [tuple(t[:n].tolist()) for t, n in zip(*row, strict=True) if n]
    for row in zip(tokens, lengths, strict=True)
  ]
  return texts, np.asarray(found.scores)


def test_many_beams_find_what_a_search_of_all_texts_finds():
  forced = [(3,), (2, 2)]
  texts, scores = search(
    96, forced, rows=[[1], [2]], early_stopping="never", length_penalty=0.0
  )
  log_probs = np.asarray(chain()["log_probs"])
  everything = [
    (*text, *end)
    for n in range(LENGTH + 1)
    for text in itertools.product(range(1, VOCAB), repeat=n)
    for end in ([(EOS,)] if n < LENGTH else [()])
    if all(has(text, phrase) for phrase in forced)
  ]
  assert len(everything) > 10
  for row, start in enumerate((1, 2)):

    def score(text, start=start):
      steps = zip((start, *text), text, strict=False)
      return sum(log_probs[a, b] for a, b in steps)

    ranked = sorted(everything, key=lambda text: -score(text))
    # Some have the same steps in another order, and the same score.
    assert len(texts[row]) == len(ranked) and set(texts[row]) == set(ranked)
    np.testing.assert_allclose(
      scores[row, : len(ranked)], [score(t) for t in ranked], rtol=1e-5
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_few_beams_have_all_phrases_even_if_there_is_just_enough_room(groups):
  # They overlap, repeat themselves, and one is within another.
  forced = [(1, 2, 1, 3), (2, 1), (4, 4, 4)]
  texts, scores = search(
    4, forced, rows=[[i % 5] for i in range(20)], length=9, vocab=6,
    groups=groups,
  )  # fmt: skip
  for row in texts:
    assert row
    for text in row:
      assert all(has(text, phrase) for phrase in forced), text
      assert EOS not in text[:-1]
  assert len({text for row in texts for text in row}) > 3
  assert (np.diff(np.where(scores > -np.inf, scores, -1e9)) <= 0).all()


@pytest.mark.parametrize(
  ("sampler", "forced", "said"),
  [
    (GREEDY, [(1,)], r"forced phrases \(\(\(1,\),\)\) need beams, not Greedy"),
    (Beam(sample=Sample()), [(1,)], r"use Beam\(num_beams=...\), without samp"),
    (Beam(), [(1, 9)], r"forced phrase \(1, 9\) has the id 9"),
    (Beam(), [(1, EOS)], "has the id 0, which is not one of .*, or ends"),
    (Beam(), [(1, 2), (1, 2, 3)], "max_new_tokens=4 is less than the 5 tokens"),
  ],
)
def test_mistakes_are_told(sampler, forced, said):
  with pytest.raises(ValueError, match=said):
    generate(
      Markov(), chain(), prompts([1]), max_new_tokens=LENGTH, eos_id=EOS,
      sampler=sampler, key=jax.random.key(0), drawable=jnp.ones(VOCAB, bool),
      constraints=Constraints(phrases=Phrases(forced=forced)),
    )  # fmt: skip


def test_a_phrase_has_tokens():
  with pytest.raises(ValueError, match="Phrases.forced .* without tokens"):
    Phrases(forced=[()])
