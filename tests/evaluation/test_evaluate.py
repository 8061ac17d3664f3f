"""Metrics are those of the tokens that bear loss, whoever computes them."""

import dataclasses
import functools
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite import data, row_formats
from t5x_lite.data.reader import Reader
from t5x_lite.decoding import Sample
from t5x_lite.evaluation import evaluate, held_out
from t5x_lite.evaluation.metrics import task_metrics
from t5x_lite.losses import Term
from tests.decoding.markov import Markov

BYTES = seqio.ByteVocabulary()
V = BYTES.vocab_size
PAIRS = [("ab", "cd"), ("c", "de"), ("xa", "bcde"), ("a", "b"), ("b", "zz")]


Data = functools.partial(
  data.Data, batch_size=2, split="validation", shuffle=False
)


def chain():
  """Log-probabilities after which each letter comes before all others."""
  logits = np.random.default_rng(0).normal(size=(V, V))
  for a, b in zip("abcd", "bcde", strict=True):
    logits[BYTES.encode(a), BYTES.encode(b)] = 9
  logits[BYTES.encode("e"), BYTES.eos_id] = 9
  log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  return {"log_probs": jnp.asarray(log_probs, jnp.float32)}


def source(pairs, splits=("validation",)):
  def dataset(split, shuffle_files=False, seed=None):
    del split, shuffle_files, seed
    inputs, targets = zip(*pairs, strict=True)
    return tf.data.Dataset.from_tensor_slices(
      {"inputs": list(inputs), "targets": list(targets)}
    )

  return seqio.FunctionDataSource(dataset, splits=list(splits))


def exact_match(targets, predictions):
  pairs = zip(targets, predictions, strict=True)
  return {"exact": 100 * np.mean([t == p for t, p in pairs])}


def mean_score(targets, scores):
  assert len(targets) == len(scores)
  return {"mean": np.mean(scores), "first": seqio.metrics.Scalar(scores[0])}


def confidence(targets, predictions, aux_values):
  assert len(targets) == len(predictions) == len(aux_values["scores"])
  return {
    "confidence": np.mean(np.exp(aux_values["scores"])),
    "note": seqio.metrics.Text("not a number"),
  }


@pytest.fixture(scope="module")
def task():
  """A task with every kind of metric, and a feature for the metrics only."""
  feature = seqio.Feature(BYTES, add_eos=True)
  plain = dataclasses.replace(feature, add_eos=False)
  seqio.TaskRegistry.add(
    "evaluate_test",
    source(PAIRS),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos,
    ],
    output_features={"inputs": plain, "targets": feature},
    metric_fns=[exact_match, mean_score, confidence],
  )
  seqio.TaskRegistry.add(
    "evaluate_test_other",
    source(PAIRS[:1], ["validation", "test"]),
    preprocessors=[seqio.preprocessors.tokenize],
    output_features={"inputs": plain, "targets": plain},
  )
  seqio.MixtureRegistry.add(
    "evaluate_test_mixture", ["evaluate_test", "evaluate_test_other"], 1.0
  )
  yield Data(task="evaluate_test", lengths={"inputs": 4, "targets": 8})
  seqio.MixtureRegistry.remove("evaluate_test_mixture")
  seqio.TaskRegistry.remove("evaluate_test")
  seqio.TaskRegistry.remove("evaluate_test_other")


def target_tokens(pairs=PAIRS):
  """Returns (token before, target token) of all targets, EOS included."""
  found = []
  for inputs, targets in pairs:
    ids = [*BYTES.encode(targets), BYTES.eos_id]
    before = [*BYTES.encode(inputs), *ids][-len(ids) - 1 : -1]
    found += zip(before, ids, strict=True)
  return np.array(found)


def entropy(tokens):
  _, counts = np.unique(tokens, return_counts=True)
  probs = counts / counts.sum()
  return -np.sum(probs * np.log(probs))


def measured(spec, model=None, **settings):
  """Evaluates a model, by default `Markov()`, on some data."""
  model = model or Markov()
  data = held_out.held_out([Reader(spec, model.row_format)])
  return evaluate.evaluate(model, chain(), data, **settings)


@pytest.mark.parametrize("batch_size", [2, 5, 8])
def test_the_loss_is_the_mean_over_all_targets_however_batched(
  task, batch_size
):
  spec = dataclasses.replace(task, batch_size=batch_size)
  metrics = measured(spec, metric_fns=False)
  before, tokens = target_tokens().T
  log_probs = np.asarray(chain()["log_probs"], np.float64)
  loss = -log_probs[before, tokens].mean()
  assert metrics == pytest.approx(
    {
      "evaluate_test/loss": loss,
      "evaluate_test/perplexity": np.exp(loss),
      "evaluate_test/accuracy": np.mean(log_probs.argmax(-1)[before] == tokens),
      "evaluate_test/tokens": len(tokens),
      "evaluate_test/num_examples": len(PAIRS),
      "evaluate_test/num_batches": -(-len(PAIRS) // batch_size),
      "evaluate_test/unigram_entropy": entropy(tokens),
    },
    rel=1e-5,
  )


def test_sums_per_token_and_the_normalisers_parts_are_told_apart():
  @dataclasses.dataclass(frozen=True)
  class Summing:
    def terms(self, params, batch):
      weight = jnp.sum(batch["decoder_loss_weights"])
      means = {"loss": 2, "accuracy": 0.5, "nothing": 0, "z_loss": 3}
      terms = {name: Term(x * weight, weight) for name, x in means.items()}
      # One entry a layer: their means add up.
      layers = Term(jnp.array([1.0, 6.0]), jnp.array([2.0, 4.0]))
      return terms | {"objective": Term(5.0, 7.0), "moe_loss": layers}

  batch = {"decoder_loss_weights": np.ones((2, 3), np.int32)}
  assert evaluate.teacher_forced(Summing(), {}, [batch] * 3) == pytest.approx({
    "loss": 2, "perplexity": np.exp(2), "accuracy": 0.5, "tokens": 18,
    "z_loss": 3, "moe_loss": 2, "num_examples": 6, "num_batches": 3,
  })  # fmt: skip


def test_evaluation_without_a_token_that_bears_loss_is_refused():
  zeros = np.zeros((2, 3), np.int32)
  batch = {
    "decoder_input_tokens": zeros,
    "decoder_target_tokens": zeros,
    "decoder_loss_weights": zeros,
  }
  with pytest.raises(ValueError, match="no token .* has a loss weight"):
    evaluate.teacher_forced(Markov(), chain(), [batch])


def test_unigram_entropy_counts_what_bears_loss():
  batches = [
    {
      "encoder_target_tokens": np.array([[5, 5, 9, 0]]),
      "encoder_loss_weights": np.array([[1, 1, 0, 0]]),
    },
    {
      "encoder_target_tokens": np.array([[0, 7, 7, 7]]),
      "encoder_loss_weights": np.array([[1, 1, 0, 0]]),
    },
    {
      "encoder_target_tokens": np.zeros((1, 4), int),
      "encoder_loss_weights": np.zeros((1, 4), int),
    },
  ]
  expected = entropy([5, 5, 0, 7])
  assert held_out.unigram_entropy(batches) == pytest.approx(expected)


@pytest.mark.parametrize(
  "architecture", ["causal", "prefix", "encoder_decoder"]
)
def test_metric_functions_see_predictions_scores_and_order(task, architecture):
  model, params = Markov(architecture=architecture), chain()
  reader = Reader(task, model.row_format)
  metrics = task_metrics(model, params, reader)
  # All but ("b", "zz") and those whose targets stop short of "e".
  assert metrics["exact"] == 40
  assert 0.5 < metrics["confidence"] < 1
  assert "note" not in metrics
  if architecture != "encoder_decoder":
    log_probs = np.asarray(params["log_probs"], np.float64)
    scores = [log_probs[tuple(target_tokens([pair]).T)].sum() for pair in PAIRS]
    assert metrics["mean"] == pytest.approx(np.mean(scores), rel=1e-5)
    assert metrics["first"] == pytest.approx(scores[0], rel=1e-5)


def test_predictions_have_no_id_that_rounds_the_vocabulary_up(task):
  params = {"log_probs": jnp.pad(chain()["log_probs"], (0, 5))}
  params["log_probs"] = params["log_probs"].at[:, V:].set(20.0)
  reader = Reader(task, row_formats.CAUSAL)
  assert task_metrics(Markov(), params, reader)["exact"] == 40


def test_predictions_do_not_depend_on_the_batch_size(task):
  def metrics(batch_size):
    spec = dataclasses.replace(task, batch_size=batch_size)
    reader = Reader(spec, row_formats.CAUSAL)
    return task_metrics(
      Markov(), chain(), reader, sampler=Sample(), max_new_tokens=6
    )

  assert metrics(2) == pytest.approx(metrics(5), rel=1e-6)


def test_num_batches_limits_both_kinds_of_metrics(task):
  spec = dataclasses.replace(task, num_batches=1)
  metrics = measured(spec)
  assert metrics["evaluate_test/tokens"] == len(target_tokens(PAIRS[:2]))
  assert metrics["evaluate_test/exact"] == 50


@pytest.mark.parametrize(
  "settings, num_batches",
  [
    ({}, 3),
    ({"shuffle": True}, 3),
    ({"batch_size": 8}, 1),
    ({"pack": True}, 2),
    ({"pack": True, "batch_size": 8, "shuffle": True}, 1),
    ({"num_epochs": 1}, 3),
  ],
)
def test_an_evaluation_ends_where_the_split_does(task, settings, num_batches):
  spec = dataclasses.replace(task, num_batches=50, **settings)
  found = measured(spec)
  found = {name.partition("/")[2]: value for name, value in found.items()}
  whole = measured(task, metric_fns=False)
  assert found["tokens"] == len(target_tokens())
  assert found["loss"] == pytest.approx(whole["evaluate_test/loss"], rel=1e-5)
  assert found["num_examples"] == found["metric_examples"] == len(PAIRS)
  assert found["num_batches"] == num_batches and "num_epochs" not in found


@pytest.mark.parametrize(
  ("architecture", "lengths"),
  [
    ("causal", {"inputs": 4, "targets": 4}),
    ("encoder_decoder", {"inputs": 4, "targets": 4}),
    ("prefix", {"inputs": 4, "targets": 4, "decoder": 4}),
  ],
)
@pytest.mark.parametrize("append", ["append_eos", "append_eos_after_trim"])
def test_metric_functions_see_texts_cut_as_the_loss_does(
  append, architecture, lengths
):
  feature = seqio.Feature(BYTES, add_eos=True)
  pairs = [("abcdefg", "cd"), ("c", "defghab"), ("xa", "b")]
  seqio.TaskRegistry.add(
    "evaluate_test_long",
    source(pairs),
    preprocessors=[
      seqio.preprocessors.tokenize,
      getattr(seqio.preprocessors, append),
    ],
    output_features={"inputs": feature, "targets": feature},
    metric_fns=[mean_score],
  )
  try:
    spec = Data(task="evaluate_test_long", lengths=lengths, batch_size=3)
    model = Markov(architecture=architecture)
    found = measured(spec, model)
  finally:
    seqio.TaskRegistry.remove("evaluate_test_long")
  found = {key.partition("/")[2]: value for key, value in found.items()}
  total = found["mean"] * len(pairs)
  assert -found["loss"] * found["tokens"] == pytest.approx(total, rel=1e-5)


def test_an_evaluation_of_several_passes_says_so(task):
  spec = dataclasses.replace(task, num_epochs=2, num_batches=50)
  found = measured(spec)
  assert found["evaluate_test/num_epochs"] == 2
  assert found["evaluate_test/num_examples"] == 2 * len(PAIRS)
  assert found["evaluate_test/metric_examples"] == len(PAIRS)


def test_each_stage_and_each_task_of_a_mixture_is_read_once(task):
  mixture = dataclasses.replace(task, task="evaluate_test_mixture")
  first = dataclasses.replace(task, num_batches=50, next_stage=mixture)
  specs = held_out.held_out([Reader(first, row_formats.CAUSAL)])
  names = [one.reader.task.name for one in specs]
  assert names == ["evaluate_test", "evaluate_test", "evaluate_test_other"]
  found = [
    evaluate.teacher_forced(Markov(), chain(), one)["num_examples"]
    for one in specs
  ]
  assert found == [len(PAIRS), len(PAIRS), 1]


def test_the_processes_of_an_evaluation_share_one_pass(task):
  class Layout:
    def __init__(self, index):
      self.data_shard = lambda: (index, 2)

  def texts(layout, **settings):
    spec = dataclasses.replace(task, batch_size=4, **settings)
    (batches,) = held_out.held_out(
      [Reader(spec, row_formats.CAUSAL)], layout=layout
    )
    rows = [row for batch in batches for row in batch["decoder_target_tokens"]]
    return [row.tobytes() for row in rows if row.any()]

  alone = texts(None)
  shared = [texts(Layout(i), num_batches=50) for i in range(2)]
  assert len(alone) == len(PAIRS)
  assert sorted(shared[0] + shared[1]) == sorted(alone)


def test_what_does_not_wrap_is_read_as_before(task):
  spec = dataclasses.replace(task, num_batches=2)
  (batches,) = held_out.held_out([Reader(spec, row_formats.CAUSAL)])
  for batch, endless in zip(
    batches, Reader(spec, row_formats.CAUSAL).batches(), strict=True
  ):
    for name, value in batch.items():
      np.testing.assert_array_equal(value, endless[name])


@pytest.mark.parametrize("settings", [{}, {"num_batches": 3}, {"pack": True}])
def test_a_split_of_which_nothing_is_left_is_refused(task, register, settings):
  name = register(
    "evaluate_test_filtered",
    lambda split, shuffle_files=False, seed=None: tf.data.Dataset.from_tensors(
      {"inputs": [1], "targets": [1]}
    ).filter(lambda example: False),
  )
  spec = dataclasses.replace(task, task=name, split="train", **settings)
  with pytest.raises(ValueError, match="evaluate_test_filtered.* no examples"):
    measured(spec)


@pytest.mark.parametrize("keep_bytes", [0, 10**6])
def test_held_out_batches_are_the_same_each_time_and_read_once_if_small(
  task, monkeypatch, keep_bytes
):
  reads, batches = [], Reader.batches
  monkeypatch.setattr(held_out.HeldOut, "keep_bytes", keep_bytes)
  monkeypatch.setattr(
    Reader,
    "batches",
    lambda *a, **k: reads.append(1) or batches(*a, **k),
  )
  data = held_out.held_out([Reader(task, row_formats.CAUSAL)])
  found = [
    evaluate.evaluate(Markov(), chain(), data, metric_fns=False)
    for _ in range(2)
  ]
  assert found[0] == found[1]
  assert len(reads) == (1 if keep_bytes else 2)


def test_a_mixture_is_measured_task_by_task(task):
  spec = dataclasses.replace(task, task="evaluate_test_mixture")
  metrics = measured(spec)
  assert metrics["evaluate_test_other/tokens"] == 2
  assert metrics["evaluate_test/tokens"] == len(target_tokens())
  assert "evaluate_test/exact" in metrics
  assert "evaluate_test_other/exact" not in metrics
  spec = dataclasses.replace(spec, split="test")
  metrics = measured(spec)
  assert {name.split("/")[0] for name in metrics} == {"evaluate_test_other"}


def test_metrics_are_written_whole(tmp_path, caplog):
  path = tmp_path / "metrics.json"
  evaluate.write({"b": 2.0, "a": 1.5}, path)
  assert json.loads(path.read_text()) == {"a": 1.5, "b": 2.0}
  assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]
  evaluate.write({"t/loss": math.nan, "of": {"x": [1.0, -math.inf]}}, path)
  found = json.loads(path.read_text(), parse_constant=pytest.fail)
  assert found == {"t/loss": None, "of": {"x": [1.0, None]}}
  assert "metrics.json: t/loss is nan, of/x/1 is -inf" in caplog.text
  with pytest.raises(ValueError, match="cannot write .*/none/m.json: No such"):
    evaluate.write({}, tmp_path / "none" / "m.json")
