"""Real models generate what their teacher-forced logits say."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from t5x_lite import row_formats
from t5x_lite.decoding import Beam, Contrastive, Sample, generate
from t5x_lite.devices.layout import Layout
from t5x_lite.inference import jobs
from tests import tiny
from tests.nn.test_against_numpy_yoco import yoco

NEW = 5


def prompts_of(model, batch):
  """Keeps the inputs of a batch: no target may reach the model."""
  if model.row_format.name == "encoder_decoder":
    return {k: v for k, v in batch.items() if k.startswith("encoder")}
  inside = batch["decoder_causal_attention"]
  return {k: v * inside for k, v in batch.items() if "target" not in k}


def with_targets(model, batch, tokens):
  """Arranges what was generated as targets to be scored."""
  rows, new = tokens.shape
  if model.row_format.name == "encoder_decoder":
    return {
      **batch,
      "decoder_input_tokens": np.pad(tokens, [(0, 0), (1, 0)])[:, :-1],
      "decoder_target_tokens": tokens,
      "decoder_loss_weights": np.ones_like(tokens),
      "decoder_segment_ids": np.ones_like(tokens),
      "decoder_positions": np.tile(np.arange(new, dtype=np.int32), (rows, 1)),
    }
  sizes = batch["decoder_causal_attention"].sum(-1)
  length = sizes.max() + new
  out = {
    k: np.zeros((rows, length), np.int32)
    for k in [*batch, "decoder_target_tokens", "decoder_loss_weights"]
  }
  for i, size in enumerate(sizes):
    text = [*batch["decoder_input_tokens"][i, :size], *tokens[i]]
    out["decoder_input_tokens"][i, : len(text) - 1] = text[:-1]
    out["decoder_target_tokens"][i, : len(text) - 1] = text[1:]
    out["decoder_loss_weights"][i, size - 1 : len(text) - 1] = 1
    out["decoder_segment_ids"][i, : len(text) - 1] = 1
    out["decoder_positions"][i, : len(text) - 1] = np.arange(len(text) - 1)
    out["decoder_causal_attention"][i, :size] = 1
  return out


MODELS = {"t5": tiny.t5, **tiny.DECODERS}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_generated_tokens_have_the_logits_of_teacher_forcing(name):
  model = MODELS[name]()
  params = model.init(jax.random.key(0))
  batch = prompts_of(model, tiny.batch(model))
  out = generate(model, params, batch, max_new_tokens=NEW)
  forced = with_targets(model, batch, np.asarray(out.tokens))
  logits = np.asarray(jax.jit(model.logits)(params, forced))
  log_probs = np.asarray(jax.nn.log_softmax(logits))
  for i, weights in enumerate(forced["decoder_loss_weights"] > 0):
    assert (log_probs[i, weights].argmax(-1) == out.tokens[i]).all()
    np.testing.assert_allclose(
      log_probs[i, weights].max(-1), out.log_probs[i], atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [Beam(num_beams=3), Contrastive(top_k=3)])
@pytest.mark.parametrize("name", ["t5 scanned", "yoco"])
def test_caches_that_move_give_the_log_probabilities_without(name, strategy):
  model = yoco() if name == "yoco" else tiny.t5(scan=True)
  params = tiny.random_params(model)
  batch = prompts_of(model, tiny.batch(model))
  out = generate(model, params, batch, max_new_tokens=NEW, sampler=strategy)
  forced = with_targets(model, batch, np.asarray(out.tokens))
  log_probs = jax.nn.log_softmax(tiny.jit(model.logits)(params, forced))
  for i, weights in enumerate(forced["decoder_loss_weights"] > 0):
    expected = np.asarray(log_probs[i])[weights][range(NEW), out.tokens[i]]
    np.testing.assert_allclose(expected, out.log_probs[i], atol=1e-4)
    if isinstance(strategy, Beam):
      np.testing.assert_allclose(out.scores[i], expected.mean(), atol=1e-4)


def test_scores_are_sums_of_weighted_log_probabilities():
  model = tiny.t5()
  params = model.init(jax.random.key(0))
  batch = tiny.batch(model)
  batch["decoder_loss_weights"][1, 2:] = 0
  scores, logits = jax.jit(lambda *a: (model.score(*a), model.logits(*a)))(
    params, batch
  )
  log_probs = np.take_along_axis(
    np.asarray(jax.nn.log_softmax(logits)),
    batch["decoder_target_tokens"][..., None],
    axis=-1,
  )[..., 0]
  expected = (log_probs * batch["decoder_loss_weights"]).sum(-1)
  np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_scanned_layers_generate_the_same():
  model = tiny.llama()
  params = model.init(jax.random.key(0))
  batch = prompts_of(model, tiny.batch(model))
  out = generate(model, params, batch, max_new_tokens=NEW)
  scanned = generate(
    tiny.replace_stacks(model, scan=True),
    tiny.stacked(params),
    batch,
    max_new_tokens=NEW,
  )
  assert (out.tokens == scanned.tokens).all()


@pytest.mark.slow
@pytest.mark.parametrize(
  "name, layout",
  [("t5", Layout(mesh={"data": 2, "tensor": 4})), ("palm", Layout())],
)
def test_draws_are_the_same_on_one_device_and_on_eight(name, layout):
  model = MODELS[name]()
  params = model.init(jax.random.key(0))
  batch = prompts_of(
    model,
    tiny.batch(model, inputs=(1, 2, 3, 4, 5, 6, 7, 8), targets=(1,) * 8),
  )

  def draw(params, batch, row_ids, context):
    with context:
      return generate(
        model,
        params,
        batch,
        max_new_tokens=NEW,
        sampler=Sample(top_p=0.9),
        key=jax.random.key(0),
        row_ids=row_ids,
      )

  row_ids = np.arange(8, dtype=np.int32)
  alone = draw(params, batch, jnp.asarray(row_ids), contextlib.nullcontext())
  layout = layout.fit(model.logical_axes(), model.abstract())
  spread = layout.shard_batch({**batch, "row_ids": row_ids})
  together = draw(
    jax.device_put(
      params, layout.tree_shardings(model.logical_axes(), model.abstract())
    ),
    spread,
    spread.pop("row_ids"),
    layout.activate(),
  )
  assert (np.asarray(alone.tokens) == np.asarray(together.tokens)).all()
  np.testing.assert_allclose(alone.log_probs, together.log_probs, atol=1e-5)


def test_positions_that_were_not_learned_are_refused():
  from t5x_lite.nn.positions import Learned

  model = tiny.llama(position=Learned(max_length=20))
  feature = seqio.Feature(seqio.PassThroughVocabulary(size=37, eos_id=1))
  codec = jobs.Codec(
    row_format=row_formats.CAUSAL,
    inputs=feature,
    targets=feature,
    lengths={"inputs": 16, "targets": 4},
  )
  assert jobs.Generate(model=model, codec=codec)
  with pytest.raises(ValueError, match="needs 21 positions, .* has 20 learned"):
    jobs.Generate(model=model, codec=codec, max_new_tokens=5)
