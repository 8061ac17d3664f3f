"""Caches of other dtypes and of few slots, and what they save."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.decoding import Assisted, DraftModel, generate
from t5x_lite.nn.attention_rules import Causal, Or, PrefixCausal, Window
from t5x_lite.nn.caches import Caching, Int8KVCache, KVCache, Ring, empty_kv
from tests import tiny
from tests.decoding.test_decode_steps import yoco
from tests.decoding.test_models import prompts_of

INPUTS, STEPS = (7, 0, 5), 6


def cache_bytes(model, caching, length=100):
  state = jax.eval_shape(
    lambda p, b: model.prefill(p, b, max_new_tokens=length, caching=caching),
    model.abstract(), tiny.batch(model),
  )[1]  # fmt: skip
  cache = jax.tree.leaves(state.cache)
  return sum(x.size * x.dtype.itemsize for x in cache if x.ndim >= 4)


def largest_error(model, caching):
  """Compares all cached logits with uncached ones, relative to the largest."""
  params = tiny.random_params(model)
  batch = tiny.batch(model, inputs=INPUTS, targets=(STEPS,) * 3)
  rows = np.arange(3)
  starts = np.array(INPUTS) * (model.row_format.name != "encoder_decoder")
  expected = tiny.jit(model.logits)(params, batch)
  prefill = tiny.jit(
    lambda p, b: model.prefill(p, b, max_new_tokens=STEPS, caching=caching)
  )
  decode_step, errors = tiny.jit(model.decode_step), []
  out, state = prefill(params, batch)
  for step in range(STEPS):
    wanted = expected[rows, starts + step]
    errors.append(np.abs(out - wanted).max() / np.abs(wanted).max())
    if step < STEPS - 1:
      tokens = batch["decoder_input_tokens"][rows, starts + step + 1]
      out, state = decode_step(params, state, tokens)
  return max(errors)


@pytest.mark.parametrize(
  ("dtype", "most", "least"), [("bfloat16", 0.05, 1e-4), ("int8", 0.1, 1e-4)]
)
def test_a_rounded_cache_gives_nearly_the_same_logits(dtype, most, least):
  # Above the rounding of float32: the cache is what was asked for.
  assert least < largest_error(tiny.t5(scan=True), Caching(dtype=dtype)) < most


def test_eight_bits_keep_each_heads_vector_to_half_a_step():
  new = np.random.default_rng(0).normal(size=(2, 3, 4, 8)).astype(np.float32)
  new[1] *= 1000  # Each vector has a scale of its own.
  new[0, 0, 0] = 0
  cache = empty_kv(2, 3, 6, 8, "int8").write(KVCache(new, -new), jnp.int32(1))
  assert isinstance(cache, Int8KVCache) and cache.keys.dtype == jnp.int8
  keys, values = cache.read()
  step = np.abs(new).max(axis=-1, keepdims=True) / 127
  assert (np.abs(keys[:, :, 1:5] - new) <= 0.5001 * step).all()
  np.testing.assert_array_equal(values, -keys)
  assert not np.asarray(keys[:, :, [0, 5]]).any()


def test_what_caches_take():
  model = tiny.llama()
  plain = cache_bytes(model, Caching())
  assert cache_bytes(model, Caching(dtype="bfloat16")) == plain // 2
  # A byte each, and a float32 for the head_dim of 6 bytes.
  quarter = plain // 4
  assert cache_bytes(model, Caching(dtype="int8")) == quarter * 10 // 6
  windows = tiny.llama(rule=Window(5))
  # 115 slots; a window of 5 and 4 tokens at once need 8.
  assert cache_bytes(windows, Caching()) == plain
  ring = cache_bytes(windows, Caching(prefill_chunk=4))
  assert ring * 115 == plain * 8


def test_a_ring_is_for_windows_alone():
  assert Ring.fit([Window(3), Window(7)], 20, 4) == Ring(10, 4)
  assert Ring.fit([Window(3)], 6, 4) is None
  assert Ring.fit([Window(3)], 20, None) is None
  for rule in (Causal(), PrefixCausal(), Or((Window(3), Causal()))):
    assert Ring.fit([Window(3), rule], 20, 4) is None


@pytest.mark.parametrize("build", [lambda: tiny.palm(rule=Window(3)), yoco])
def test_a_ring_gives_the_uncached_logits_of_ragged_prompts(build):
  # 5 slots for texts of up to 14 tokens.
  assert largest_error(build(), Caching(prefill_chunk=3)) < 1e-5


def test_a_draft_and_a_ring_give_the_models_text():
  model = tiny.palm(rule=Window(3))
  params = tiny.random_params(model)
  batch = prompts_of(model, tiny.batch(model))
  draft = DraftModel(model=model.__class__(
    transformer=model.transformer.clone(
      decoder=model.transformer.decoder.clone(num_layers=1)
    )
  ), num_tokens=3)  # fmt: skip
  settings = {"max_new_tokens": 8, "caching": Caching(prefill_chunk=4)}
  expected = generate(model, params, batch, max_new_tokens=8)
  settings |= {"sampler": Assisted(draft=draft), "draft_params": params}
  out = generate(model, params, batch, **settings)
  np.testing.assert_array_equal(out.tokens, expected.tokens)
  few = {**settings, "caching": Caching(prefill_chunk=3)}
  with pytest.raises(ValueError, match="appends 4 tokens to a cache that ta"):
    generate(model, params, batch, **few)
