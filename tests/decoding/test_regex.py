"""Generated texts match a regular expression, whatever the model prefers."""

import itertools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
  regex,
)
from tests import tiny
from tests.decoding.markov import Markov, prompts

# Id 0 is padding, 1 is EOS; some tokens are several characters, or half of one.
TOKENS = (
  b"", b"", b"a", b"b", b"ab", b"ba", b"aab", b" ", b"1", b"22", b"\xc3",
  b"\xa9", b"-",
)  # fmt: skip
EOS, LENGTH = 1, 6


def of(pattern, *, first=TOKENS):
  return Regex(pattern=pattern, first=first, later=TOKENS)


@pytest.mark.parametrize(
  "pattern", ["(a|b)*ab", "a{2,3}b?", "é+|1", "[^a]*", "(ab|1 )+-?", ""]
)
def test_a_token_may_come_if_the_text_can_still_match_in_time(pattern):
  automaton, most, left = of(pattern), 3, 2
  known = range(2, len(TOKENS))
  sequences = [
    (*s, *[0] * (most - len(s)), len(s))
    for n in range(most + 1)
    for s in itertools.product(known, repeat=n)
  ]

  def fits(ids):
    try:
      text = b"".join(TOKENS[i] for i in ids).decode()
    except UnicodeDecodeError:
      return False
    return re.fullmatch(pattern, text) is not None

  ends = {s[: s[-1]] for s in sequences if fits(s[: s[-1]])}

  @jax.jit
  @jax.vmap
  def allowed(row):
    return automaton.allowed(
      row[None, :-1], jnp.array([0]), row[-1], jnp.array([left]),
      jnp.array([EOS]), len(TOKENS),
    )[0]  # fmt: skip

  found = np.asarray(allowed(jnp.array(sequences)))
  for sequence, allowed_V in zip(sequences, found, strict=True):
    ids = sequence[: sequence[-1]]
    assert allowed_V[EOS] == (ids in ends)
    if len(ids) + left > most:
      continue
    for token in known:
      after = [(*ids, token), *((*ids, token, i) for i in known)]
      assert allowed_V[token] == any(x in ends for x in after), (ids, token)
  assert automaton.shortest == min(map(len, ends))
  assert automaton.ids() <= set(known)


def params():
  logits = 2 * jax.random.normal(jax.random.key(0), (len(TOKENS),) * 2)
  return {"log_probs": jax.nn.log_softmax(logits)}


@pytest.mark.slow
@pytest.mark.parametrize(
  "sampler",
  [
    Sample(),
    Beam(num_beams=3, num_return_sequences=3),
    Assisted(draft=DraftModel(model=Markov(), num_tokens=3), sampler=Sample()),
    "continuous",
  ],
  ids=["sample", "beam", "assisted", "continuous"],
)
def test_texts_of_every_strategy_match_also_at_the_maximum_length(sampler):
  pattern = "[ab ]*(1|é)(-22)?|b{9}"
  arguments = {
    "max_new_tokens": LENGTH,
    "key": jax.random.key(1),
    "eos_id": EOS,
    "constraints": Constraints(among=of(pattern)),
  }
  given = prompts(*[[2 + i % 11] for i in range(200)])
  if sampler == "continuous":
    model = tiny.with_vocab(tiny.llama(), len(TOKENS))
    found = generate_continuously(
      model, tiny.random_params(model), given, rows=64, sampler=Sample(),
      **arguments,
    )  # fmt: skip
  else:
    draft_params = params() if isinstance(sampler, Assisted) else None
    found = generate(
      Markov(), params(), given, sampler=sampler, draft_params=draft_params,
      **arguments,
    )  # fmt: skip
  lengths = np.reshape(found.lengths, -1)
  tokens = np.reshape(found.tokens, (-1, LENGTH))
  texts = [
    b"".join(TOKENS[i] for i in row[:length]).decode()
    for row, length in zip(tokens, lengths, strict=True)
  ]
  for text in texts:
    assert re.fullmatch(pattern, text), text
  assert len(set(texts)) > 10
  is_cut = (lengths == LENGTH) & (tokens[:, -1] != EOS)
  assert is_cut.any() and (lengths < LENGTH).any()


def test_the_first_token_reads_otherwise_where_a_space_is_dropped():
  first = [token.removeprefix(b" ") for token in TOKENS]
  first[2], later = b"", list(TOKENS)
  later[2] = b" a"
  automaton = Regex(pattern="b a| b", first=first, later=later)
  found = generate(
    Markov(), params(), prompts([2]), max_new_tokens=4, sampler=GREEDY,
    eos_id=EOS, constraints=Constraints(among=automaton),
  )  # fmt: skip
  assert found.tokens.tolist() == [[3, 2, EOS, 0]]


@pytest.mark.parametrize(
  ("make", "said"),
  [
    (lambda: of("("), r"regex='\(' cannot be used: Failed to build"),
    (lambda: of("a(?=b)"), "without look-around, back-references"),
    (lambda: of("^a$"), "cannot be used"),
    (lambda: of("c+"), r"regex='c\+' matches no text that the tokens"),
    (
      lambda: generate(
        Markov(), params(), prompts([2]), max_new_tokens=4,
        constraints=Constraints(among=of("(-[ab1]){3}")),
      ),
      "max_new_tokens=4 is less than the 6 tokens of the shortest text",
    ),
  ],
)  # fmt: skip
def test_mistakes_are_told(make, said):
  with pytest.raises(ValueError, match=said):
    make()


def test_a_missing_library_is_named(monkeypatch):
  regex._table.cache_clear()
  monkeypatch.setitem(sys.modules, "outlines_core", None)
  with pytest.raises(ValueError, match=r'pip install "t5x_lite\[patterns\]"'):
    of("a")
