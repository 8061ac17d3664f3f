"""Rows of a decoding state are taken whole, wherever the batch dim lies."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_lite.nn.positions import Learned2D
from tests import tiny
from tests.nn.test_against_numpy_yoco import yoco

NEW = 3


def glm():
  model = tiny.prefix_lm()
  decoder = model.transformer.decoder.clone(
    position=Learned2D(max_length=30, max_blank=8)
  )
  transformer = model.transformer.clone(decoder=decoder)
  return dataclasses.replace(model, transformer=transformer)


MODELS = {
  "t5": tiny.t5, "t5 scanned": lambda: tiny.t5(scan=True), "yoco": yoco,
  "yoco scanned": lambda: yoco(scan=True), "glm": glm,
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def case(request):
  model = MODELS[request.param]()
  params = tiny.random_params(model)
  batch = tiny.batch(model)
  if request.param == "glm":
    batch["decoder_block_positions"] = np.ones_like(batch["decoder_positions"])
  prefill = tiny.jit(lambda p, b: model.prefill(p, b, max_new_tokens=NEW))
  return params, batch, prefill, tiny.jit(model.decode_step)


def rows_of(batch, index):
  return {name: values[index] for name, values in batch.items()}


@pytest.mark.slow
def test_rows_taken_go_on_as_in_a_batch_of_them(case):
  params, batch, prefill, decode_step = case
  index = np.array([2, 0, 0])
  _, state = prefill(params, batch)
  _, other = prefill(params, rows_of(batch, index))
  wider = state.take_rows(np.array([2, 2, 1, 0, 0]))
  for taken in (state.take_rows(index), wider.take_rows(np.array([0, 3, 4]))):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
                 taken, other)  # fmt: skip
    found, after = decode_step(params, taken, np.arange(3))
    expected, other_after = decode_step(params, other, np.arange(3))
    found, _ = decode_step(params, after, np.arange(3) + 7)
    expected, _ = decode_step(params, other_after, np.arange(3) + 7)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_exchanged_slots_are_all_that_moves(case):
  params, batch, prefill, decode_step = case
  # Two copies of a row, which differ in what comes after the prompt.
  _, state = prefill(params, rows_of(batch, np.array([0, 2, 2])))
  first = int(state.slot)
  for tokens in (np.arange(3), np.arange(3) + 20):
    _, state = decode_step(params, state, tokens)
  for index in (np.array([0, 2, 1]), np.array([0, 2, 2])):
    whole = state.take_rows(index)
    slots = state.take_rows(index, slots=(first, NEW))
    jax.tree.map(np.testing.assert_array_equal, whole, slots)
    moved = jax.tree.map(lambda a, b: (a != b).any(), state.cache, slots.cache)
    assert any(jax.tree.leaves(moved))
