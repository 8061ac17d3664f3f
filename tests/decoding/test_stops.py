"""A stop string ends a text in the step that writes it, whatever the tokens."""

import random

import jax
import numpy as np
import pytest

from t5x_lite.decoding import (
  Assisted,
  Constraints,
  PromptLookup,
  Sample,
  generate,
  generate_continuously,
  stops,
)
from tests import tiny
from tests.decoding.markov import Markov, prompts
from tests.decoding.test_regex import EOS, TOKENS, params

FIRST = tuple(token.removeprefix(b" ") for token in TOKENS)
# Id 1 ends a text, and so do these.
STRINGS = [("ab",), ("aaba", "ba b"), ("é", "b1"), ("2", "221", "1-"), ("a b",)]


@jax.jit
def _found(automaton, tokens_NT, steps_T):
  return jax.vmap(automaton.found, (None, 0), 1)(tokens_NT, steps_T)


def found(strings, first, tokens, steps):
  automaton = stops.find(strings, first, TOKENS)
  return np.asarray(_found(automaton, tokens, np.array(steps)))


@pytest.mark.parametrize("strings", STRINGS)
def test_a_string_is_found_in_the_token_that_completes_it(strings):
  rng, length = random.Random(0), 12
  rows = [rng.choices(range(2, len(TOKENS)), k=length) for _ in range(200)]
  found_NT = found(strings, FIRST, np.array(rows), range(length))
  for row, found_T in zip(rows, found_NT, strict=True):
    text = FIRST[row[0]]
    for step, is_found in enumerate(found_T):
      text += TOKENS[row[step]] if step else b""
      expected = any(s in text.decode(errors="replace") for s in strings)
      assert is_found == expected, (text, strings)
      if expected:
        break


def test_no_string_is_found_across_an_id_that_is_no_text():
  tokens = np.array([[2, 3, 0, 0], [2, 0, 3, 0], [0, 0, 2, 3]])
  found_NT = found(("ab",), TOKENS, tokens, (1, 3))
  assert found_NT.tolist() == [[True, False], [False, False], [False, True]]


@pytest.mark.parametrize("way", ["sample", "assisted", "continuous"])
def test_texts_are_those_without_stops_up_to_the_string(way):
  strings, length = ("ab", "2-", "11"), 8
  model, weights = Markov(), params()
  arguments = {
    "max_new_tokens": length, "key": jax.random.key(1), "eos_id": EOS,
    "constraints": Constraints(suppressed=[0]), "sampler": Sample(),
  }  # fmt: skip
  if way == "assisted":
    draft = PromptLookup(num_tokens=3)
    arguments["sampler"] = Assisted(draft=draft, sampler=Sample())
  given = prompts(*[[2 + i % 11] for i in range(64)])
  generates = generate
  if way == "continuous":
    model = tiny.with_vocab(tiny.llama(), len(TOKENS))
    weights, generates = tiny.random_params(model), generate_continuously
    arguments["rows"] = 16
  whole, cut = (
    generates(model, weights, given, stops=found, **arguments)
    for found in (None, stops.find(strings, FIRST, TOKENS))
  )
  texts = [
    [FIRST[row[0]], *(TOKENS[i] for i in row[1:])]
    for row in np.asarray(whole.tokens).tolist()
  ]
  expected = [
    next(
      (n for n in range(1, size + 1)
       if any(s.encode() in b"".join(text[:n]) for s in strings)),
      size,
    )
    for text, size in zip(texts, whole.lengths.tolist(), strict=True)
  ]  # fmt: skip
  assert cut.lengths.tolist() == expected
  assert 10 < np.sum(cut.lengths < whole.lengths) < 60
  inside = np.arange(length) < cut.lengths[:, None]
  np.testing.assert_array_equal(cut.tokens, np.where(inside, whole.tokens, 0))
