"""Generated texts match a regular expression, whatever the model prefers."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.data.vocabularies import byte
from t5x_lite.decoding import (
  GREEDY,
  Assisted,
  Beam,
  Constraints,
  DraftModel,
  Regex,
  Sample,
  generate,
  generate_continuously,
)
from tests.decoding.markov import Markov, prompts

BYTES = byte.Bytes()
ROWS, LENGTH = 40, 12
# The texts of these are long or short, of one or more bytes a character, and
# some can go on after they might have ended.
PATTERNS = (
  "[0-9]{4}", "(a|bc)*d?", "[a-zé€]+ [^a-z]{2}", r"-?[1-9][0-9]*(\.[0-9]+)?",
  ".{3,5}", "",
)  # fmt: skip


def spelled(vocabulary):
  return [
    vocabulary.decode([i]).encode()
    if i < 131
    else bytes([i - 3])
    if i < 259
    else b""
    for i in range(vocabulary.vocab_size)
  ]


def regex(pattern):
  tokens = spelled(BYTES)
  return Regex(pattern=pattern, first=tokens, later=tokens)


@pytest.fixture(scope="module")
def params():
  logits = 2 * jax.random.normal(jax.random.key(0), (384, 384))
  return {"log_probs": jax.nn.log_softmax(logits)}


def texts(found):
  return [BYTES.decode(row[:length]) for row, length in
          zip(found.tokens.reshape(-1, LENGTH).tolist(),
              np.reshape(found.lengths, -1), strict=True)]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_all_sampled_texts_match(pattern, params):
  found = generate(
    Markov(), params, prompts(*[[i] for i in range(ROWS)]),
    max_new_tokens=LENGTH, sampler=Sample(), key=jax.random.key(1),
    eos_id=BYTES.eos_id, constraints=Constraints(among=regex(pattern)),
  )  # fmt: skip
  for text in texts(found):
    assert re.fullmatch(pattern, text), text
  if pattern:
    assert len(set(texts(found))) > 10
