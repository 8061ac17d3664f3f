"""Constraints allow the tokens that `transformers`' processors allow."""

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.decoding import Constraints, generate
from t5x_lite.decoding.texts import Texts
from tests.decoding.markov import Markov, prompts
from tests.decoding.test_loop import CHAIN

VOCAB, ENDS = 11, (2, 7)


def _theirs(constraints, prompt_length, max_new_tokens):
  """Returns the processors in the order of `generate`."""
  from transformers.generation import logits_process as processors

  ends = list(ENDS)
  found = []
  if constraints.min_length:
    found.append(
      processors.MinLengthLogitsProcessor(constraints.min_length, ends)
    )
  if constraints.min_new_tokens:
    found.append(
      processors.MinNewTokensLengthLogitsProcessor(
        prompt_length, constraints.min_new_tokens, ends
      )
    )
  if constraints.first is not None:
    found.append(processors.ForcedBOSTokenLogitsProcessor(constraints.first))
  if constraints.last is not None:
    found.append(
      processors.ForcedEOSTokenLogitsProcessor(
        prompt_length + max_new_tokens, constraints.last
      )
    )
  if constraints.suppressed:
    found.append(
      processors.SuppressTokensLogitsProcessor(list(constraints.suppressed))
    )
  if constraints.suppressed_first:
    begin = prompt_length + (
      prompt_length == 1 and constraints.first is not None
    )
    found.append(
      processors.SuppressTokensAtBeginLogitsProcessor(
        list(constraints.suppressed_first), begin
      )
    )
  return found


@pytest.mark.parametrize(
  "settings",
  [
    {"first": 4},
    {"last": 7},
    {"suppressed": [0, 9]},
    {"suppressed_first": [1, 5]},
    {"first": 4, "suppressed_first": [1, 5]},
    {"min_length": 4},
    {"min_new_tokens": 2},
    {"min_length": 3, "suppressed": [3], "first": 6, "last": 2},
  ],
)
def test_the_same_tokens_may_come_as_in_transformers(settings):
  import torch

  constraints = Constraints(ends=ENDS, **settings)
  logits = np.random.default_rng(0).normal(size=(1, VOCAB)).astype(np.float32)
  for prompt_length in (1, 3):
    for step in range(4):
      ours = constraints.allow(
        jnp.asarray(logits),
        prompts=Texts(
          jnp.zeros((1, prompt_length), int), jnp.array([prompt_length])
        ),
        tokens_BT=jnp.zeros((1, 4), jnp.int32),
        step=jnp.int32(step),
        limit_B=jnp.array([4]),
        end_ids=jnp.array(ENDS),
      )
      theirs = torch.tensor(logits)
      ids = torch.zeros((1, prompt_length + step), dtype=torch.long)
      for processor in _theirs(constraints, prompt_length, 4):
        theirs = processor(ids, theirs)
      np.testing.assert_array_equal(ours, theirs.numpy())


def test_any_of_several_tokens_ends_a_row_and_so_does_its_length():
  given = prompts([2], [3], [2, 3])
  # Alone, 2 goes on with 3, 1, 0, 3 and 3 with 1.
  out = generate(
    Markov(), CHAIN, given, max_new_tokens=4, eos_id=1,
    constraints=Constraints(ends=[0, 3]),
  )  # fmt: skip
  assert out.tokens.tolist() == [[3, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
  assert out.lengths.tolist() == [1, 2, 2]
  out = generate(
    Markov(), CHAIN, given, max_new_tokens=4,
    constraints=Constraints(max_length=5),
  )  # fmt: skip
  # The prompts have 2, 2 and 3 tokens.
  assert out.lengths.tolist() == [3, 3, 2]


def test_log_probs_are_the_models_own():
  out = generate(
    Markov(), CHAIN, prompts([]), max_new_tokens=1,
    constraints=Constraints(first=0),
  )  # fmt: skip
  assert out.tokens.tolist() == [[0]]
  np.testing.assert_allclose(np.exp(out.log_probs), [[0.1]], rtol=1e-6)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"ends": [-1]}, r"ends\[0\] .-1. must be at least 0"),
    ({"first": "a"}, "first .'a'. must be of type int"),
    ({"ends": [True]}, r"ends\[0\] .True. must be of type int"),
    ({"max_length": 1}, "max_length .1. must be at least 2"),
    ({"max_length": 8.5}, "max_length .8.5. must be of type int"),
    ({"min_length": "4"}, "min_length .'4'. must be of type int"),
    ({"min_new_tokens": -1}, "min_new_tokens .-1. must be at least 0"),
    ({"first": 3, "suppressed": [3]}, "first .3. is also in suppressed"),
  ],
)
def test_mistakes_are_told(settings, message):
  with pytest.raises(ValueError, match=message):
    Constraints(**settings)


@pytest.mark.parametrize(
  ("settings", "drawable", "message"),
  [
    ({"suppressed": range(4)}, None, "exclude all 4 tokens, by suppressed"),
    ({"suppressed": [0, 1]}, [1, 1, 0, 0], "all 2 tokens, by suppressed"),
    (
      {"suppressed": [0], "suppressed_first": [3]}, [1, 0, 0, 1],
      "by suppressed, suppressed_first",
    ),
    ({"min_new_tokens": 1}, [0, 1, 0, 0], "by ends before the minimum length"),
    ({"first": 2}, [1, 1, 0, 1], "first .2. is forced"),
    ({"last": 4}, None, "last .4. is forced"),
    ({"last": 4}, [1, 1, 1, 1], "last .4. is forced"),
  ],
)  # fmt: skip
def test_no_step_is_without_a_token(settings, drawable, message):
  with pytest.raises(ValueError, match=message):
    generate(
      Markov(), CHAIN, prompts([2]), max_new_tokens=2, eos_id=1,
      constraints=Constraints(**settings),
      drawable=None if drawable is None else np.array(drawable, bool),
    )  # fmt: skip
