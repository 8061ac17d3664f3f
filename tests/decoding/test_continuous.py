"""Rows that give their place to the next prompt change no text."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_lite.decoding import (
  Constraints,
  Sample,
  continuous,
  generate,
  generate_continuously,
)
from t5x_lite.decoding.places import Places
from t5x_lite.nn.attention_rules import Window
from t5x_lite.nn.caches import Caching
from tests import tiny
from tests.decoding.test_decode_steps import yoco
from tests.decoding.test_models import prompts_of

INPUTS = (19, 3, 0, 7, 30, 11, 2)
SETTINGS = {"max_new_tokens": 9, "constraints": Constraints(ends=range(8))}


def many(model):
  """Returns prompts of many lengths."""
  batch = tiny.batch(
    model, inputs=INPUTS, targets=(1,) * 7, input_length=32, target_length=2
  )
  return prompts_of(model, batch)


def encoders_and_window():
  """Builds an encoder-decoder with a short memory, scanned."""
  model = tiny.t5(scan=True)
  transformer = model.transformer
  decoder = transformer.decoder.clone(rule=Window(4))
  return dataclasses.replace(
    model, transformer=transformer.clone(decoder=decoder)
  )


MODELS = {
  "prefix_lm": (tiny.prefix_lm, Caching()),
  "yoco": (yoco, Caching(prefill_chunk=4)),
  "encoder_decoder": (encoders_and_window, Caching(prefill_chunk=2)),
  "scanned": (lambda: tiny.t5(scan=True), Caching()),
}
SLOW = [
  ("yoco", None), ("yoco", 90), ("encoder_decoder", None), ("scanned", 20)
]  # fmt: skip


@pytest.mark.parametrize(
  ("name", "slots"),
  [
    ("prefix_lm", None),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW),
  ],
)
def test_texts_are_those_of_one_batch_and_nothing_is_compiled_again(
  name, slots
):
  build, caching = MODELS[name]
  model, batch = build(), many(build())
  params = tiny.random_params(model)
  row_ids = np.array([0, 1, 2, -1, 4, 5, 6])
  expected = generate(model, params, batch, row_ids=row_ids, **SETTINGS)
  for compiled in (continuous._admit, continuous._run):
    compiled.clear_cache()
  for order in (range(7), [6, 4, 2, 0, 1, 3, 5]):
    order = np.array(order)
    out = generate_continuously(
      model, params, {k: v[order] for k, v in batch.items()}, rows=3,
      row_ids=row_ids[order], caching=caching, slots=slots, **SETTINGS,
    )  # fmt: skip
    np.testing.assert_array_equal(out.tokens, expected.tokens[order])
    np.testing.assert_array_equal(out.lengths, expected.lengths[order])
    np.testing.assert_allclose(
      out.log_probs, expected.log_probs[order], atol=1e-4
    )
  assert len(set(expected.lengths.tolist())) > 2  # Rows end at many times.
  # Prompts of 16 and of 32 tokens.
  assert continuous._admit._cache_size() == 2
  assert continuous._run._cache_size() == 1


@pytest.mark.slow
def test_draws_are_those_of_one_batch():
  model = tiny.llama()
  params, batch = tiny.random_params(model), many(model)
  settings = {**SETTINGS, "sampler": Sample(top_k=9), "eos_id": 3}
  settings["key"] = jax.random.key(7)
  # Two of the longest have no room at once.
  out = generate_continuously(
    model, params, batch, rows=2, slots=70, **settings
  )
  expected = generate(model, params, batch, **settings)
  np.testing.assert_array_equal(out.tokens, expected.tokens)


def test_rows_below_one_are_refused():
  with pytest.raises(ValueError, match=r"rows \(0\) must be at least 1"):
    generate_continuously(tiny.llama(), {}, {}, rows=0, **SETTINGS)


def test_slots_are_given_to_rows_and_taken_back():
  places = Places(rows=3, length=4, slots=6)
  assert places.reserve(0, 4) and places.reserve(2, 2)
  assert not places.reserve(1, 1)
  places.free(np.array([0]))
  assert places.reserve(1, 3)
  assert places.of_rows.tolist() == [[6] * 4, [0, 1, 2, 6], [4, 5, 6, 6]]
  with pytest.raises(ValueError, match=r"slots \(3\) must be at least 4"):
    Places(rows=1, length=4, slots=3)
