"""Rows that advance by different numbers of tokens, in caches of any kind."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.nn.attention_rules import (
  And,
  Causal,
  LocalWindow,
  Or,
  PrefixCausal,
  Sinks,
  Window,
  looks_ahead,
)
from t5x_lite.nn.caches import Caching
from t5x_lite.nn.norms import RMSNorm
from t5x_lite.nn.positions import Alibi, Learned, NoPosition, Sinusoidal, T5Bias
from t5x_lite.nn.transformer_xl_bias import TransformerXLBias
from t5x_lite.nn.yoco import DecoderDecoder
from tests import tiny

STEPS, INPUTS = 6, (7, 0, 5)
ROWS = np.arange(3)


def yoco():
  """Builds a decoder over a decoder, of two layers each."""
  model = tiny.llama()
  stack = model.transformer.decoder
  upper = stack.clone(layer=stack.layer.clone())
  decoder = DecoderDecoder(
    self_decoder=stack.clone(rule=Window(3), final_norm=None),
    cross_decoder=upper,
    norm=RMSNorm(),
  )
  return type(model)(transformer=model.transformer.clone(decoder=decoder))


def transformer_xl():
  """Builds a LLaMA whose layers have distances of their own."""
  model = tiny.llama(position=NoPosition())
  stack = model.transformer.decoder
  attention = stack.layer.attention.clone(distances=TransformerXLBias())
  stack = stack.clone(layer=stack.layer.clone(attention=attention))
  return type(model)(transformer=model.transformer.clone(decoder=stack))


MODELS = {
  "rope": tiny.llama,
  "t5_scan": lambda: tiny.t5(scan=True),
  "prefix": tiny.prefix_lm,
  "learned": lambda: tiny.llama(position=Learned(max_length=15)),
  "sinusoidal": lambda: tiny.llama(position=Sinusoidal()),
  "alibi": lambda: tiny.llama(position=Alibi(num_heads=tiny.HEADS)),
  "t5_bias": lambda: tiny.llama(
    position=T5Bias(num_heads=tiny.HEADS, bidirectional=False), scan=True
  ),
  "sinks": lambda: tiny.palm(rule=Or((Window(2), And((Causal(), Sinks(1)))))),
  "yoco": yoco,
  "transformer_xl": transformer_xl,
}


QUICK = ("t5_scan", "learned", "sinks")


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(n, marks=() if n in QUICK else pytest.mark.slow)
    for n in MODELS
  ],
)
def test_rows_that_append_and_take_back_tokens_have_their_uncached_logits(name):
  model = MODELS[name]()
  params = tiny.random_params(model)
  batch = tiny.batch(model, inputs=INPUTS, targets=(STEPS,) * 3)
  ids = batch["decoder_input_tokens"]
  starts = np.array(INPUTS) * (model.row_format.name != "encoder_decoder")
  expected = np.asarray(tiny.jit(model.logits)(params, batch))

  # Each round appends three tokens, of which rows keep some.
  rounds = [(3, 3, 3), (2, 1, 3), (3, 1, 2), (2, 3, 1)]
  kept_rounds = [(1, 2, 3), (0, 1, 1), (3, 0, 1), (1, 2, 0)]
  done = np.zeros(3, int)
  columns = np.arange(3)

  def append(params, state, tokens, lengths, back):
    logits, state = model.decode_tokens(
      params, state, tokens, lengths_B=lengths
    )
    return logits, model.roll_back(state, back)

  _, state = tiny.jit(
    lambda p, b: model.prefill(p, b, max_new_tokens=STEPS + 2)
  )(params, batch)
  append = tiny.jit(append)
  for lengths, kept in zip(rounds, kept_rounds, strict=True):
    lengths, kept = np.array(lengths), np.array(kept)
    lengths = np.minimum(lengths, STEPS - 1 - done)
    kept = np.minimum(kept, lengths)
    places = (starts + 1 + done)[:, None] + columns
    real = columns < lengths[:, None]
    # What is not real may be anything, and what is taken back is wrong.
    right = columns < kept[:, None]
    tokens = np.take_along_axis(ids, np.minimum(places, ids.shape[1] - 1), 1)
    tokens = np.where(right, tokens, 3)
    out, state = append(
      params, state, tokens, jnp.array(lengths), jnp.array(lengths - kept)
    )
    assert np.isfinite(np.asarray(out)[real]).all()
    for row in ROWS:
      n, start = kept[row], starts[row] + 1 + done[row]
      np.testing.assert_allclose(
        out[row, :n], expected[row, start : start + n], rtol=1e-4, atol=3e-5
      )
    done += kept
  assert state.slot.shape == (3,) and sorted(done) != [0, 0, 0]


def test_rows_in_step_append_several_tokens_too():
  model = tiny.t5()
  params = tiny.random_params(model)
  batch = tiny.batch(model, inputs=(7, 1, 5), targets=(5,) * 3)
  tokens = batch["decoder_input_tokens"][:, 1:5]

  def run(params, batch):
    _, state = model.prefill(params, batch, max_new_tokens=5)
    return model.decode_tokens(params, state, tokens)

  out, state = tiny.jit(run)(params, batch)
  expected = tiny.jit(model.logits)(params, batch)
  np.testing.assert_allclose(out, expected[:, 1:5], rtol=1e-4, atol=2e-5)
  assert state.slot == 5


CHUNKED = {
  "rope": tiny.llama,
  "window_scan": lambda: tiny.palm(rule=Window(3), scan=True),
  "yoco": yoco,
}


@pytest.mark.parametrize("name", CHUNKED)
def test_a_prompt_in_chunks_gives_the_same_logits_and_goes_on_alike(name):
  model = CHUNKED[name]()
  params = tiny.random_params(model)
  batch = tiny.batch(model, inputs=INPUTS)  # 15 columns: 3, then 3 of 4.

  def run(params, batch, chunk):
    first, state = model.prefill(
      params, batch, max_new_tokens=2, caching=Caching(prefill_chunk=chunk)
    )
    # Where all layers have windows, chunks have a cache of another layout.
    second, _ = model.decode_step(params, state, first.argmax(-1))
    return first, second

  whole, parts = (
    tiny.jit(functools.partial(run, chunk=chunk))(params, batch)
    for chunk in (None, 4)
  )
  for ours, theirs in zip(parts, whole, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def test_chunks_are_refused_where_a_prompt_is_read_as_a_whole():
  model = tiny.prefix_lm()
  with pytest.raises(ValueError, match=r"prefill_chunk \(4\) splits .* Prefix"):
    model.prefill(
      tiny.random_params(model), tiny.batch(model), max_new_tokens=2,
      caching=Caching(prefill_chunk=4),
    )  # fmt: skip
  assert looks_ahead(LocalWindow(1)) and looks_ahead(PrefixCausal())
  assert looks_ahead(Or((Window(4), Sinks(2))))
  assert not looks_ahead(Or((Window(4), And((Causal(), Sinks(2))))))


@pytest.mark.parametrize("name", ["rope", "prefix", "t5_bias"])
def test_padding_on_the_left_gives_what_padding_on_the_right_does(name):
  model = MODELS[name]()
  params = tiny.random_params(model)
  batch = tiny.batch(model, inputs=INPUTS)
  length = 8
  right = {
    k: batch[k][:, :length] * batch["decoder_causal_attention"][:, :length]
    for k in ("decoder_input_tokens", "decoder_causal_attention")
  }
  sizes = right["decoder_causal_attention"].sum(1)
  left = {
    k: np.stack([np.roll(v, length - n) for v, n in zip(x, sizes, strict=True)])
    for k, x in right.items()
  }

  @tiny.jit
  def two(params, batch):
    logits, state = model.prefill(params, batch, max_new_tokens=2)
    return logits, model.decode_step(params, state, jnp.array([4, 5, 6]))[0]

  for ours, theirs in zip(two(params, left), two(params, right), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)
