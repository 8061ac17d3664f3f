"""Metrics of generated text, by hand and through seqio.Evaluator."""

import numpy as np
import pytest
import seqio

from tasks import metrics, vocabularies
from tasks.span_corruption import SpanCorruption
from tests.tasks import streams


def test_spans_are_read_between_sentinels():
  text = "noise <extra_id_0> a b <extra_id_1>c<extra_id_0> again"
  assert metrics.spans(text) == {0: "a b", 1: "c"}
  assert metrics.spans("no sentinel") == {}


def test_infilling_by_hand():
  targets = [{0: "a b", 1: "c"}, {0: "d"}]
  predictions = [{0: "a x", 1: "c"}, {}]
  assert metrics.infilling(targets, predictions) == pytest.approx(
    {
      "sequence_accuracy": 0.0,
      "span_accuracy": 100 / 3,
      "token_f1": 100 * (0.5 + 1 + 0) / 3,
    }
  )


def test_a_blank_left_out_is_wrong_though_its_truth_be_empty():
  assert set(metrics.infilling([{0: ""}], [{}]).values()) == {0.0}
  assert metrics.infilling([{0: ""}], [{0: ""}])["token_f1"] == 100.0


def test_continuation_by_hand():
  assert metrics.continuation(["a b c ", "d"], ["a b c", "a d d"]) == (
    pytest.approx({"sequence_accuracy": 50.0, "token_f1": 100 * 1.5 / 2})
  )


def test_words_count_as_often_as_they_come():
  assert metrics.token_f1("a a b", "a b b") == pytest.approx(2 / 3)
  assert metrics.token_f1("", "") == 1.0
  assert metrics.token_f1("a", "") == 0.0


def test_nothing_scores_zero():
  assert metrics.sequence_accuracy([], []) == {"sequence_accuracy": 0.0}


@pytest.mark.parametrize("perfect", [True, False])
def test_seqio_evaluator_reads_predictions_of_span_corruption(perfect):
  name = "evaluated_span_corruption"
  task = streams.task(name, SpanCorruption(), ["some text of some length " * 9])
  seqio.TaskRegistry.add_provider(name, task)
  try:
    evaluator = seqio.Evaluator(
      name,
      feature_converter=seqio.EncDecFeatureConverter(pack=False),
      eval_split="validation",
      sequence_length={"inputs": 64, "targets": 20},
      seed=0,
    )

    def predict(dataset, model_feature_shapes=None):
      predictions = []
      for i, row in dataset.as_numpy_iterator():
        tokens = row["decoder_target_tokens"]
        predictions.append((i, tokens if perfect else np.zeros_like(tokens)))
      return predictions

    results, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict)
    scores = results.result()[name]
  finally:
    seqio.TaskRegistry.remove(name)
  expected = 100.0 if perfect else 0.0
  assert set(scores.values()) == {expected}
  assert set(scores) == {"sequence_accuracy", "span_accuracy", "token_f1"}


def test_bytes_show_sentinels_to_the_metrics():
  vocabulary = vocabularies.Bytes()
  ids = [383, *vocabulary.encode("a"), 382, *vocabulary.encode("b"), 1]
  assert metrics.spans(vocabulary.decode(ids)) == {0: "a", 1: "b"}
