"""What must hold of every architecture, whatever its parameters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.devices.layout import DEFAULT_RULES
from t5x_lite.losses.cross_entropy import CrossEntropy
from t5x_lite.nn.attention_rules import Causal, PrefixCausal, Window
from t5x_lite.nn.positions import Learned, T5Bias
from tests import tiny

every_model = pytest.mark.parametrize("name", tiny.ALL)


@functools.cache
def compiled(model, method="logits", **settings):
  return tiny.jit(functools.partial(getattr(model, method), **settings))


def logits(model, batch):
  return np.asarray(compiled(model)(tiny.random_params(model), batch))


def sums(model, batch):
  params = tiny.random_params(model)
  return compiled(model, "terms")(params, batch)


def assert_all_close(actual, expected):
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6),
    actual, expected,
  )  # fmt: skip


# Who influences whom.


def moved_by(model, batch, name, place):
  """Says which of row 0's logits another token at that place changes."""
  values = batch[name].copy()
  values[0, place] = values[0, place] % (tiny.VOCAB - 1) + 1
  before, after = logits(model, batch), logits(model, {**batch, name: values})
  moved = np.abs(before - after).max(-1) > 1e-5
  assert not moved[1:].any()  # Rows never influence each other.
  return moved[0]


@pytest.mark.parametrize("name", ["palm", "t5"])
def test_a_later_token_does_not_move_earlier_logits(name):
  model = tiny.ALL[name]()
  batch = tiny.batch(model)
  places = np.arange(batch["decoder_input_tokens"].shape[1])
  real = batch["decoder_segment_ids"][0] > 0
  for place in range(real.sum()):
    moved = moved_by(model, batch, "decoder_input_tokens", place)
    np.testing.assert_array_equal(moved, (places >= place) & real)


def test_prefix_tokens_move_everything_and_targets_only_what_follows():
  model = tiny.prefix_lm()
  batch = tiny.batch(model, inputs=(4, 1, 0), targets=(11, 3, 2))
  for place in range(15):
    moved = moved_by(model, batch, "decoder_input_tokens", place)
    # The prefix is the start token and four inputs: places 0 to 4.
    expected = np.arange(15) >= (0 if place <= 4 else place)
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize("name", ["t5", "encoder"])
def test_every_input_moves_every_output(name):
  model = tiny.ALL[name]()
  batch = tiny.batch(model, inputs=(8, 3, 5), targets=(7, 6, 2))
  for place in range(8):
    assert moved_by(model, batch, "encoder_input_tokens", place).all()


def test_a_window_reaches_back_by_its_size_in_each_layer():
  model = tiny.palm(rule=Window(3))
  batch = tiny.batch(model, inputs=(8, 3, 5), targets=(7, 6, 2))
  moved = moved_by(model, batch, "decoder_input_tokens", 2)
  # Two layers of two tokens back each.
  assert np.flatnonzero(moved).tolist() == [2, 3, 4, 5, 6]


# Padding and packing.


@pytest.mark.parametrize("name", ["t5", "encoder", "prefix_lm"])
def test_packed_documents_have_the_losses_of_unpacked_ones(name):
  model = tiny.ALL[name]()
  batch = tiny.batch(model)
  weights = f"{tiny.side(model)}_loss_weights"
  for row in range(3):
    here = np.arange(3)[:, None] == row
    one = {**batch, weights: batch[weights] * here}
    packed = tiny.packed(one)
    for side in ("encoder", "decoder"):
      if f"{side}_input_tokens" in packed:
        # Whatever padding holds, nobody sees it.
        packed[f"{side}_input_tokens"][0, -2:] = 9 + row
    assert_all_close(sums(model, packed), sums(model, one))


def test_a_packed_document_without_inputs_borrows_none():
  model = tiny.t5()
  batch = tiny.batch(model, inputs=(8, 0, 7), targets=(4, 6, 2))
  assert_all_close(sums(model, tiny.packed(batch)), sums(model, batch))


def test_full_rows_need_no_segment_ids_or_positions():
  model = tiny.t5()
  batch = tiny.batch(model, inputs=(8, 8, 8), targets=(7, 7, 7))
  bare = {
    k: v for k, v in batch.items()
    if not k.endswith(("segment_ids", "positions"))
  }  # fmt: skip
  np.testing.assert_allclose(
    logits(model, bare), logits(model, batch), atol=1e-6
  )


# Ways to compute the same thing.


def loss_and_gradient(model, params, dropout_key=None):
  batch = tiny.batch(model)

  def loss(params):
    return model.objective(params, batch, key=dropout_key)

  return tiny.jit(jax.value_and_grad(loss))(params)


def assert_gradients_agree(ours, theirs):
  np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
  tiny.assert_trees_close(ours[1], theirs[1], rtol=1e-4)


@pytest.mark.parametrize(
  "name, remat",
  [
    ("t5", "full"),
    ("palm", "dots"),
    ("llama", "context"),
    ("t5", "dots_and_context"),
    ("palm", "offload"),
  ],
)
def test_scan_and_remat_change_nothing(name, remat):
  plain = tiny.ALL[name]()
  params = tiny.random_params(plain)
  loss, gradient = loss_and_gradient(plain, params)
  other = tiny.replace_stacks(plain, scan=True, remat=remat)
  assert_gradients_agree(
    loss_and_gradient(other, tiny.stacked(params)),
    (loss, tiny.stacked(gradient)),
  )


def test_remat_draws_the_same_dropout_twice():
  model = tiny.palm(dropout=0.3, num_layers=1)
  other = tiny.replace_stacks(model, remat="full")
  params, key = tiny.random_params(model), jax.random.key(7)
  assert_gradients_agree(
    loss_and_gradient(other, params, key),
    loss_and_gradient(model, params, key),
  )


def test_bfloat16_is_near_float32():
  model, half = tiny.t5(), tiny.t5(dtype="bfloat16")
  batch, params = tiny.batch(model), tiny.random_params(model)
  out = compiled(half)(params, batch)
  assert out.dtype == jnp.float32
  real = batch["decoder_segment_ids"] > 0
  exact = logits(model, batch)[real]
  assert np.abs(out[real] - exact).mean() < 0.03 * exact.std()
  _, gradient = loss_and_gradient(half, params)
  assert {g.dtype for g in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}


# Generation.

WITH_CACHE = {
  "t5_scan": tiny.t5(scan=True),
  "prefix_lm_scan": tiny.prefix_lm(scan=True),
  "window": tiny.palm(rule=Window(3)),
  "learned": tiny.llama(position=Learned(max_length=30)),
  "prefix_t5_bias": tiny.llama(
    position=T5Bias(num_heads=tiny.HEADS, bidirectional=True),
    rule=PrefixCausal(),
  ),
}


@pytest.mark.parametrize("name", WITH_CACHE)
def test_cached_logits_are_uncached_ones_for_prompts_of_any_length(name):
  model, inputs, steps = WITH_CACHE[name], (7, 0, 5), 6
  params = tiny.random_params(model)
  batch = tiny.batch(model, inputs=inputs, targets=(steps,) * 3)
  # Where each row's first new token stands.
  starts = np.array(inputs) * (model.row_format.name != "encoder_decoder")
  all_logits, rows = logits(model, batch), np.arange(3)

  prefill = compiled(model, "prefill", max_new_tokens=steps)
  out, state = prefill(params, batch)
  for step in range(steps):
    np.testing.assert_allclose(
      out, all_logits[rows, starts + step], rtol=1e-4, atol=2e-5
    )
    if step < steps - 1:
      tokens = batch["decoder_input_tokens"][rows, starts + step + 1]
      out, state = compiled(model, "decode_step")(params, state, tokens)


def test_what_follows_the_prompt_does_not_sway_the_prefill():
  model = WITH_CACHE["prefix_lm_scan"]
  batch = tiny.batch(model, inputs=(7, 0, 5), targets=(6, 6, 6))
  outside = (batch["decoder_causal_attention"] == 0).astype(np.int32)
  tokens = batch["decoder_input_tokens"]
  other = {
    **batch,
    "decoder_input_tokens": tokens * (1 - outside) + 9 * outside,
    "decoder_segment_ids": batch["decoder_segment_ids"] * (1 - outside),
  }
  prefill = compiled(model, "prefill", max_new_tokens=6)
  params = tiny.random_params(model)
  np.testing.assert_array_equal(
    prefill(params, batch)[0], prefill(params, other)[0]
  )


def test_an_encoder_alone_does_not_generate():
  model = tiny.encoder()
  with pytest.raises(ValueError, match="encoder-only model does not generate"):
    model.prefill({}, tiny.batch(model), max_new_tokens=3)


# Scores.


@pytest.mark.parametrize("name", ["encoder", "palm"])
def test_score_is_minus_the_sum_of_each_rows_cross_entropy(name):
  regularised = CrossEntropy(
    z_loss=0.1, label_smoothing=0.1, normalizer="sequences", chunk_tokens=4
  )
  model = tiny.ALL[name](loss=regularised)
  batch, params = tiny.batch(model), tiny.random_params(model)
  side = tiny.side(model)
  log_p = np.asarray(jax.nn.log_softmax(logits(model, batch)))
  targets = batch[f"{side}_target_tokens"][..., None]
  log_p = np.take_along_axis(log_p, targets, -1)[..., 0]
  expected = (log_p * batch[f"{side}_loss_weights"]).sum(axis=1)
  score = compiled(model, "score")(params, batch)
  np.testing.assert_allclose(score, expected, rtol=1e-5, atol=1e-6)
  assert score.dtype == jnp.float32


# Parameters and vocabulary.


def test_initial_parameters_are_as_announced_and_predict_evenly():
  model = tiny.palm()
  params, abstract = (
    compiled(model, "init")(jax.random.key(0)),
    model.abstract(),
  )
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, abstract)
  assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  found = compiled(model, "terms")(params, tiny.batch(model))
  # A uniform guess, give or take the unit variance of the first logits.
  loss = found["loss"].mean()
  assert np.log(tiny.VOCAB) - 0.3 < loss < np.log(tiny.VOCAB) + 1


@every_model
def test_every_dim_of_every_parameter_has_a_logical_axis(name):
  model = tiny.replace_stacks(tiny.ALL[name](), scan=True)
  known = dict(DEFAULT_RULES)

  def check(parameter, names):
    assert len(names) == parameter.ndim and set(names) <= set(known)

  jax.tree.map(check, model.abstract(), model.logical_axes())


def test_vocabulary_comes_from_the_tokenizer_or_is_checked():
  model = tiny.palm()
  unset = dataclasses.replace(
    model, transformer=model.transformer.clone(vocab_size=None)
  )
  assert unset.fit_vocabulary(37).transformer.vocab_size == 128
  assert unset.fit_vocabulary(129).transformer.vocab_size == 256
  assert unset.fit_vocabulary(37, multiple=2).transformer.vocab_size == 38
  assert model.fit_vocabulary(30) is model
  with pytest.raises(ValueError, match="has 38 ids .* vocab_size is 37"):
    model.fit_vocabulary(38)
  with pytest.raises(ValueError, match="vocab_size is not set"):
    unset.abstract()


def test_equal_models_are_one_to_jit():
  assert tiny.t5() == tiny.t5() and hash(tiny.t5()) == hash(tiny.t5())
  assert tiny.palm() != tiny.prefix_lm()


def test_architectures_have_their_names():
  found = {name: build().row_format.name for name, build in tiny.ALL.items()}
  assert found == {
    "t5": "encoder_decoder", "encoder": "encoder", "palm": "causal",
    "prefix_lm": "prefix", "llama": "causal",
  }  # fmt: skip


def test_a_pooled_encoder_gives_the_decoder_means_of_neighbours():
  model = tiny.t5()
  encoder = model.transformer.encoder.clone(pool=2)
  pooled = dataclasses.replace(
    model, transformer=model.transformer.clone(encoder=encoder)
  )
  batch = tiny.batch(model, inputs=(8, 4, 6))
  assert logits(pooled, batch).shape == logits(model, batch).shape
  # Two equal neighbours are their mean: half of the tokens say the same.
  twice = {
    name: np.repeat(values, 2, axis=1) if name.startswith("encoder") else values
    for name, values in batch.items()
  }
  twice["encoder_positions"] = np.tile(np.arange(16), (3, 1))
  np.testing.assert_allclose(
    logits(pooled, twice), logits(model, batch), atol=1e-5
  )
  assert not pooled.reads_packed_rows and model.reads_packed_rows


@pytest.mark.parametrize("rule", [None, Causal()])
def test_a_shared_encoder_has_the_decoders_parameters(rule):
  model = tiny.t5()
  decoder = model.transformer.decoder
  # Whatever a layer's rule is, the encoder's is Full.
  decoder = decoder.clone(layer=decoder.layer.clone(rule=rule))
  position = decoder.position.clone(bidirectional=True)
  shared = dataclasses.replace(
    model,
    transformer=model.transformer.clone(
      encoder=None, share_encoder=True, decoder=decoder.clone(position=position)
    ),
  )
  assert shared.row_format.name == "encoder_decoder"
  params, batch = tiny.random_params(shared), tiny.batch(model)
  assert "encoder" not in params
  apart = params | {
    "encoder": {
      name: {k: v for k, v in layer.items() if not k.startswith("cross")}
      for name, layer in params["decoder"].items()
    }
  }
  own = model.transformer.clone(decoder=decoder.clone(position=position))
  own = dataclasses.replace(model, transformer=own)
  np.testing.assert_allclose(
    shared.logits(params, batch), own.logits(apart, batch), atol=1e-5
  )
