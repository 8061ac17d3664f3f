"""Metrics of MLM and GLM are of blanks that are filled as texts are."""

import dataclasses

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite import data
from t5x_lite.data.reader import Reader
from t5x_lite.evaluation import metrics
from tasks import filled
from tasks.vocabularies import Bytes
from tests import tiny
from tests.inference.test_blanks import LETTERS, of_bytes

VOCABULARY = Bytes()
EOS, M = VOCABULARY.eos_id, VOCABULARY.vocab_size - 1


def ids(text):
  return VOCABULARY.encode(text)


def mlm(inputs, targets, scored):
  weights = [int(i in scored) for i in range(len(targets))]
  return {"inputs": inputs, "targets": ids(targets), "weights": weights}


MASKED = [
  mlm([*ids("ab"), M, *ids("de"), M], "abcdef", [2, 5]),
  # A kept token and a random one are scored in training, but not filled in.
  mlm([*ids("axc"), M, M], "abcde", [0, 1, 3, 4]),
  mlm([M, *ids("b")], "ab", [0]),
]
BLANKS = [
  {"inputs": [*ids("a"), M, *ids("d"), M],
   "targets": [*ids("ef"), EOS, *ids("bc"), EOS],
   "positions": [3, 3, 3, 1, 1, 1]},
  {"inputs": [M, *ids("b")], "targets": [*ids("a"), EOS], "positions": [0, 0]},
  {"inputs": [*ids("ab"), M], "targets": [*ids("c"), EOS], "positions": [2, 2]},
]  # fmt: skip


def predicted(model, examples, metric):
  """Returns what a metric is given for some examples, and its values."""
  given = []

  def function(examples, predictions, vocabulary):
    given.extend(predictions)
    return metric(examples, predictions, vocabulary)

  def dataset(split, shuffle_files=False, seed=None):
    del split, shuffle_files, seed
    signature = {name: tf.TensorSpec([None], tf.int32) for name in examples[0]}
    return tf.data.Dataset.from_generator(
      lambda: iter(examples), output_signature=signature
    )

  text = seqio.Feature(VOCABULARY, add_eos=False)
  number = seqio.Feature(seqio.PassThroughVocabulary(99), add_eos=False)
  seqio.TaskRegistry.add(
    "filled_test",
    seqio.FunctionDataSource(dataset, splits=["validation"]),
    preprocessors=[],
    output_features={
      name: text if name in ("inputs", "targets") else number
      for name in examples[0]
    },
    metric_objs=[filled.Metric(function)],
  )
  try:
    spec = data.Data(
      task="filled_test", split="validation", lengths=model.lengths,
      shuffle=False, batch_size=2,
    )  # fmt: skip
    found = metrics.task_metrics(
      model.model, model.params, Reader(spec, model.model.row_format),
      constraints=model.constraints,
    )  # fmt: skip
  finally:
    seqio.TaskRegistry.remove("filled_test")
  assert found.pop("num_examples") == len(examples)
  return [VOCABULARY.decode(np.trim_zeros(x, "b")) for x in given], found


@pytest.mark.parametrize("kind", ["masks", "blanks"])
def test_predictions_are_what_a_language_model_writes(kind):
  if kind == "masks":
    special = {0, 1, 2, *range(259, 384)}
    examples, metric = MASKED, filled.mask_filling
    model, allowed = tiny.encoder(), [*LETTERS, *special]
  else:
    examples, metric = BLANKS, filled.blank_filling
    model, allowed = tiny.prefix_lm(), [*LETTERS[:3], EOS]
  model = of_bytes(model, *examples[0], allowed=allowed)
  texts = [VOCABULARY.decode(example["inputs"]) for example in examples]
  given, found = predicted(model, examples, metric)
  assert given == model.generate(texts, max_new_tokens=16)
  assert all(0 <= value <= 100 for value in found.values())
  job = model.generation()
  searching = dataclasses.replace(job.constraints, suppressed=(), first=5)
  if kind == "masks":
    with pytest.raises(ValueError, match="first=5 has no meaning where masks"):
      dataclasses.replace(job, constraints=searching)


def arrays(examples):
  return [
    {name: np.array(ids) for name, ids in example.items()}
    for example in examples
  ]


def test_what_fills_blanks_is_compared_blank_by_blank():
  filled_in = np.array([[*ids("abcdex"), 0], [*ids("axcde"), 0, 0],
                        [*ids("xb"), 0, 0, 0, 0, 0]])  # fmt: skip
  found = filled.mask_filling(arrays(MASKED), filled_in, VOCABULARY)
  assert found == pytest.approx(
    {"mask_accuracy": 60, "sequence_accuracy": 100 / 3}
  )
  # The first example's blanks are "bc" and "ef"; the last one's is not filled.
  spans = np.zeros((3, 6), np.int32)
  spans[0, :5] = [M, *ids("bc"), M, *ids("e")]
  spans[1, :2] = [M, *ids("a")]
  found = filled.blank_filling(arrays(BLANKS), spans, VOCABULARY)
  assert found == pytest.approx({
    "sequence_accuracy": 100 / 3, "span_accuracy": 50, "token_f1": 50,
  })  # fmt: skip
