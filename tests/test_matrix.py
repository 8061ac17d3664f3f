"""Every architecture on every objective: refused with a reason, or learned."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from t5x_lite import row_formats
from t5x_lite.data import feature_converters
from t5x_lite.nn.embedding import Embedding
from t5x_lite.nn.heads import Classifier
from t5x_lite.optim.optimizers import AdamW
from t5x_lite.training import step
from tasks import mixtures
from tests import tiny
from tests.tasks.streams import BYTES, examples

MODELS = {
  "encoder_decoder": tiny.t5,
  "causal": tiny.palm,
  "prefix": tiny.prefix_lm,
  "encoder": tiny.encoder,
}
PAIRS = (
  "span_corruption", "prefix_lm", "ul2", "iid_denoising", "bart", "mass",
  "pegasus",
)  # fmt: skip
TEXTS = ("causal_lm", "fim", "cm3")
ALIGNED = ("mlm", "sentence_pairs", "replaced_tokens")
# What an architecture can take; a prefix LM sees no prefix of a text alone.
SENSE = {
  "encoder_decoder": PAIRS,
  "causal": (*PAIRS, *TEXTS),
  "prefix": (*PAIRS, *TEXTS, "glm"),
  "encoder": ALIGNED,
}
ROW = 64
STEPS = 12
DOCUMENTS = [
  " ".join(f"{word} is {word * 2}. And {i} too!" for word in ("ab", "c", "de"))
  for i in range(60)
]


def test_every_objective_has_its_cells():
  assert {*PAIRS, *TEXTS, *ALIGNED, "glm"} == set(mixtures.OBJECTIVES)


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("name", mixtures.OBJECTIVES)
def test_cells_without_sense_are_refused_with_a_reason(name, architecture):
  names = mixtures.OBJECTIVES[name].output_features(BYTES)
  if name in SENSE[architecture]:
    row_formats.ALL[architecture].check(names)
    return
  with pytest.raises(ValueError, match="cannot take features .*: .* use ") as e:
    row_formats.ALL[architecture].check(names)
  assert "\n" not in str(e.value)


@functools.cache
def made(name):
  """Returns an objective's first examples, and the lengths of its features."""
  objective = mixtures.OBJECTIVES[name]
  names = objective.output_features(BYTES)
  # So that the rows of an architecture have one shape: one compilation.
  length = ROW // 2 if name in (*PAIRS, "glm") else ROW
  lengths = dict.fromkeys(names, length)
  if "next_sentence" in lengths:
    lengths["next_sentence"] = 1
  return examples(objective, lengths, *DOCUMENTS)[:8], lengths


def batch(name, architecture, *, pack=False):
  rows, lengths = made(name)
  if pack:  # Several short examples for each row.
    rows = [{key: row[key][:12] for key in row} for row in rows]
  columns = {
    key: tf.ragged.constant([row[key].tolist() for row in rows], tf.int32, 1)
    for key in lengths
  }
  dataset = tf.data.Dataset.from_tensor_slices(columns)
  convert = feature_converters.converter(
    row_formats.ALL[architecture], pack=pack
  )
  return next(convert(dataset, lengths).batch(8).as_numpy_iterator())


def build(architecture):
  model = MODELS[architecture](num_layers=1)
  needed = {}
  if architecture == "encoder":  # By sentence pairs.
    needed = {
      "classifier": Classifier(num_classes=2),
      "embedding": Embedding(num_token_types=2),
    }
  transformer = model.transformer.clone(vocab_size=BYTES.vocab_size, **needed)
  return dataclasses.replace(model, transformer=transformer)


@pytest.mark.parametrize(
  ("architecture", "name"),
  [
    ("encoder_decoder", "span_corruption"), ("causal", "cm3"),
    ("prefix", "prefix_lm"), ("prefix", "glm"), ("encoder", "mlm"),
  ],
)  # fmt: skip
def test_no_document_leaks_across_a_packed_boundary(architecture, name):
  model = build(architecture)
  params = model.init(jax.random.key(0))
  one = batch(name, architecture, pack=True)
  side = tiny.side(model)
  segments = one[f"{side}_segment_ids"]
  assert (segments.max(axis=1) >= 2).any()

  logits = tiny.jit(model.logits)
  before = np.asarray(logits(params, one))
  for key in [key for key in one if key.endswith("_tokens")]:
    ids = one[f"{feature_converters.packing.side_of(key)}_segment_ids"]
    one[key] = np.where(ids == 2, (one[key] + 7) % BYTES.vocab_size, one[key])
  after = np.asarray(logits(params, one))
  np.testing.assert_array_equal(before[segments == 1], after[segments == 1])
  np.testing.assert_array_equal(before[segments > 2], after[segments > 2])
  moved = np.abs(before - after)[segments == 2].max(axis=-1)
  assert (moved > 0).all()


@pytest.mark.parametrize("architecture", MODELS)
def test_all_others_learn(architecture):
  model = build(architecture)
  optimizer = AdamW(learning_rate=1e-2).build(model.logical_axes())
  first = step.init_state(model, optimizer, jax.random.key(0))
  one_step = step.train_step(model, optimizer, dropout_key=jax.random.key(1))

  @tiny.jit
  def train(state, batch):
    def body(state, _):
      state, metrics = one_step(state, batch)
      return state, metrics.terms["loss"].mean()

    return jax.lax.scan(body, state, length=STEPS)[1]

  for name in SENSE[architecture]:
    one = batch(name, architecture)
    losses = np.asarray(train(first, jax.tree.map(jnp.asarray, one)))
    assert np.isfinite(losses).all(), name
    assert losses[-1] < losses[0] - 0.3, (name, losses)
