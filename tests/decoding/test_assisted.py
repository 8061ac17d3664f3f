"""Assisted decoding gives the model's own text, whatever the draft."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from t5x_lite.decoding import (
  GREEDY,
  Assisted,
  Constraints,
  DraftModel,
  PromptLookup,
  Repetition,
  Sample,
  generate,
  loop,
)
from tests import tiny
from tests.decoding.markov import Markov, prompts
from tests.decoding.test_loop import CHAIN, EOS
from tests.decoding.test_models import prompts_of

NEW = 11


def assist(model, params, batch, *, draft, sampler=GREEDY, **settings):
  assisted = Assisted(draft=draft, sampler=sampler)
  out = generate(model, params, batch, sampler=assisted, **settings)
  return out, out.acceptance


def perturbed(model, params):
  """Returns the model with weights a 20th off, which often agrees with it."""
  rng = np.random.default_rng(0)
  return model, jax.tree.map(
    lambda x: x * (1 + 0.05 * rng.standard_normal(x.shape, np.float32)), params
  )


def repeating(model):
  """Returns prompts of unequal lengths that repeat themselves."""
  batch = prompts_of(model, tiny.batch(model, inputs=(8, 2, 5)))
  name = next(n for n in batch if n.endswith("input_tokens"))
  ids = 3 + np.arange(batch[name].shape[1]) % 2
  return batch | {name: np.where(batch[name] > 0, ids, 0).astype(np.int32)}


@pytest.mark.parametrize(
  ("name", "draft"),
  [
    ("prefix_lm", "model"),
    pytest.param("t5", "lookup", marks=pytest.mark.slow),
    pytest.param("t5", "model", marks=pytest.mark.slow),
    pytest.param("palm", "lookup", marks=pytest.mark.slow),
  ],
)
def test_greedy_text_is_the_models_own_token_for_token(name, draft):
  model = tiny.ALL[name]()
  params = tiny.random_params(model)
  batch, settings = repeating(model), {"max_new_tokens": NEW, "eos_id": 4}
  settings["constraints"] = Constraints(
    min_new_tokens=3, suppressed=[5], repetition=Repetition(penalty=1.3)
  )
  settings["drawable"] = np.arange(tiny.VOCAB) != 6
  expected = generate(model, params, batch, **settings)
  other, their = perturbed(model, params)
  given = {"draft": PromptLookup(num_tokens=4), "draft_params": None}
  if draft == "model":
    given = {"draft": DraftModel(model=other, num_tokens=3)}
    given["draft_params"] = their
  out, counts = assist(model, params, batch, **given, **settings)
  np.testing.assert_array_equal(out.tokens, expected.tokens)
  np.testing.assert_array_equal(out.lengths, expected.lengths)
  np.testing.assert_allclose(out.log_probs, expected.log_probs, atol=1e-4)
  # Each round adds one token beside those that were accepted.
  accepted = np.asarray(counts.accepted)
  assert (out.lengths <= 1 + counts.rounds + accepted).all()
  assert (accepted <= counts.proposed).all() and accepted.max() > 0


def test_a_draft_that_is_the_model_is_accepted_as_a_whole():
  model = tiny.llama()
  params = tiny.random_params(model)
  batch = prompts_of(model, tiny.batch(model))
  draft = DraftModel(model=model, num_tokens=3)
  out, counts = assist(
    model, params, batch, draft=draft, draft_params=params, max_new_tokens=NEW
  )
  # One token of the prompt's step, then four a round: 1 + 4 + 4 + 2.
  assert counts.rounds.tolist() == [3, 3, 3]
  assert counts.accepted.tolist() == counts.proposed.tolist() == [7, 7, 7]
  assert out.lengths.tolist() == [NEW] * 3


OTHER = {"log_probs": jnp.log(jnp.array([
    [0.40, 0.10, 0.40, 0.10],
    [0.10, 0.20, 0.30, 0.40],
    [0.60, 0.15, 0.20, 0.05],
    [0.25, 0.25, 0.25, 0.25],
]))}  # fmt: skip
# Of tokens 0 to 3 after the softmax of each row, by hand.
SAMPLERS = {
  "plain": (Sample(), lambda p: p),
  "temperature": (Sample(temperature=0.5), lambda p: p**2),
  "top_k": (Sample(top_k=3), lambda p: p * (np.argsort(np.argsort(-p)) < 3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("draft", ["model", "lookup"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_sampled_text_has_the_models_distribution(name, draft):
  sampler, change = SAMPLERS[name]
  num_rows, new = 6000, 3
  given = {"draft": PromptLookup(ngram=1, num_tokens=2), "draft_params": None}
  if draft == "model":
    given = {
      "draft": DraftModel(model=Markov(), num_tokens=2),
      "draft_params": OTHER,
    }
  out, counts = assist(
    Markov(), CHAIN, prompts(*[[2, 3, 2]] * num_rows), **given,
    max_new_tokens=new, sampler=sampler, key=jax.random.key(5), eos_id=EOS,
  )  # fmt: skip
  table = np.exp(np.asarray(CHAIN["log_probs"], np.float64))
  table = np.stack([change(row) for row in table])
  table /= table.sum(axis=1, keepdims=True)
  expected = {}

  def extend(text, last, prob):
    if len(text) == new or last == EOS:
      expected[(*text, *[0] * (new - len(text)))] = prob
      return
    for token in range(4):
      if table[last, token] > 0:
        extend((*text, token), token, prob * table[last, token])

  extend((), 2, 1.0)
  drawn = collections.Counter(map(tuple, out.tokens.tolist()))
  assert set(drawn) <= set(expected)
  result = stats.chisquare(
    [drawn[text] for text in expected],
    np.array(list(expected.values())) * num_rows,
    sum_check=False,
  )
  assert result.pvalue > 1e-4
  # Some draft tokens stand and some fall, or nothing was tested.
  assert 0.1 < counts.accepted.sum() / counts.proposed.sum() < 0.9


def test_a_row_is_not_swayed_by_its_neighbours():
  def draw(rows, row_ids):
    out, _ = assist(
      Markov(), CHAIN, prompts(*rows), max_new_tokens=9, sampler=Sample(),
      draft=DraftModel(model=Markov(), num_tokens=3), draft_params=OTHER,
      key=jax.random.key(3), row_ids=jnp.array(row_ids),
    )  # fmt: skip
    return dict(zip(row_ids, out.tokens.tolist(), strict=True))

  together = draw([[2], [3], [2]], [5, 6, 7])
  assert together[5] != together[7]
  apart = draw([[3], [0], [2]], [6, -1, 5])
  assert apart == {6: together[6], 5: together[5], -1: [0] * 9}


def test_look_up_goes_on_as_the_longest_n_gram_did_first():
  text = assisted_text([7, 8, 9, 5, 8, 9, 6, 8, 9], [7, 7, 7], [1, 2, 3])
  # After "6 8 9" nothing is known, after "8 9" came 5; after "7 7" came 7.
  assert text.continuation(3).tolist() == [3, 2, 3]
  assert text.continuation(1).tolist() == [3, 1, 3]


def assisted_text(*rows):
  from t5x_lite.decoding.drafts import _Text

  ids = np.array([np.pad(row, (0, 12 - len(row))) for row in rows])
  return _Text(jnp.array(ids), jnp.array([len(row) for row in rows]))


def test_mistakes_are_told():
  model = tiny.llama()
  params, batch = tiny.random_params(model), tiny.batch(model)
  other = tiny.with_vocab(model, 40)
  with pytest.raises(ValueError, match="draft model has 40 ids, the model 37"):
    assist(
      model, params, batch, draft=DraftModel(model=other),
      draft_params=tiny.random_params(other), max_new_tokens=2,
    )  # fmt: skip
  with pytest.raises(ValueError, match="pass key="):
    assist(
      model, params, batch, draft=PromptLookup(), max_new_tokens=2,
      sampler=Sample(),
    )  # fmt: skip
  with pytest.raises(ValueError, match=r"PromptLookup.ngram \(0\) must be"):
    PromptLookup(ngram=0)


def test_compiles_once_for_equal_shapes_and_settings():
  loop._generate.clear_cache()
  for seed in range(2):
    assist(
      Markov(), CHAIN, prompts([seed], [2]), max_new_tokens=3,
      draft=PromptLookup(), sampler=Sample(top_k=2), key=jax.random.key(seed),
    )  # fmt: skip
  assert loop._generate._cache_size() == 1
