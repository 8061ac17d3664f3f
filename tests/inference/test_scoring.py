"""Scores are log-likelihoods, and codecs are those of their tasks."""

import numpy as np
import pytest
import seqio

from t5x_lite import row_formats
from t5x_lite.data.resolved_task import resolve
from t5x_lite.decoding import Sample
from t5x_lite.inference import infer
from tests.decoding.markov import Markov
from tests.inference.test_infer import BYTES, codec, generation, noise


def log_likelihoods(given, ids):
  table = np.asarray(noise()["log_probs"], np.float64)
  before = [*BYTES.encode(given), *ids][-len(ids) - 1 : -1]
  before = [0] * (len(ids) - len(before)) + before
  return [table[a, b] for a, b in zip(before, ids, strict=True)]


@pytest.mark.parametrize("per_token", [False, True])
def test_scores_targets_given_inputs_with_eos(per_token):
  job = infer.Score(model=Markov(), codec=codec(), per_token=per_token)
  records = [
    {"inputs": "abc", "targets": "de"},
    {"text": "hello"},
    {"inputs": "x" * 20, "targets": ""},
  ]
  results = infer.run(job, noise(), records, batch_size=2)
  for record, result in zip(records, results, strict=True):
    targets = record.get("targets", record.get("text"))
    expected = log_likelihoods(
      record.get("inputs", ""), [*BYTES.encode(targets), BYTES.eos_id]
    )
    assert result["num_tokens"] == len(expected)
    np.testing.assert_allclose(
      result["log_likelihood"], sum(expected), rtol=1e-5
    )
    np.testing.assert_allclose(
      result["log_likelihood_per_token"], np.mean(expected), rtol=1e-5
    )
    if per_token:
      np.testing.assert_allclose(
        result["token_log_likelihoods"], expected, rtol=1e-5
      )


def test_scoring_needs_targets_and_room_for_both():
  def refused(message, record, codec):
    job = infer.Score(model=Markov(codec.row_format.name), codec=codec)
    with pytest.raises(ValueError, match=message):
      infer.run(job, noise(), [record])

  refused(
    "text 1: no field 'targets'; its fields: 'text'",
    {"text": "a"},
    codec("encoder_decoder"),
  )
  refused(
    "targets has 9 tokens, more than the maximum of 8",
    {"text": "a" * 8},
    codec(),
  )
  refused(
    "inputs has 4 tokens, .*maximum of 3",
    {"inputs": "abcd", "targets": "abcd"},
    codec(targets=8),
  )


def test_a_generated_texts_score_is_its_log_likelihood():
  job = generation(sampler=Sample(), max_new_tokens=8)
  results = infer.run(job, noise(), [{"inputs": c} for c in "abcdef"])
  ended = [r for r in results if r["num_tokens"] < 8]
  assert ended
  scored = infer.run(
    infer.Score(model=Markov(), codec=codec()),
    noise(),
    [{"inputs": r["inputs"], "targets": r["prediction"]} for r in ended],
  )
  for a, b in zip(ended, scored, strict=True):
    if a["num_tokens"] == b["num_tokens"]:  # not all bytes make a text
      np.testing.assert_allclose(
        a["log_likelihood"], b["log_likelihood"], rtol=1e-5
      )


def test_a_tasks_codec_has_its_vocabularies_and_eos():
  name = "infer_test_pair"
  source = seqio.FunctionDataSource(
    lambda split, shuffle_files: None, ["train"]
  )
  seqio.TaskRegistry.add(
    name,
    source,
    output_features={
      "inputs": seqio.Feature(BYTES, add_eos=False),
      "targets": seqio.Feature(BYTES, add_eos=True),
    },
  )
  try:
    task = resolve(name)
    made = infer.codec(
      task, row_formats.PREFIX, {"inputs": 5, "targets": 6, "other": 1}
    )
    assert made.lengths == {"inputs": 5, "targets": 6}
    row = {"inputs": 5, "targets": 6, "decoder": 8}
    assert infer.codec(task, row_formats.PREFIX, row).shared == 8
    assert made.encode("inputs", "a", "", 5).tolist() == [100]
    assert made.encode("targets", "a", "", 5).tolist() == [100, 1]
    with pytest.raises(ValueError, match="encoder cannot take .* in place"):
      infer.codec(task, row_formats.ENCODER, {})
    with pytest.raises(ValueError, match="lacks targets of infer_test_pair"):
      infer.codec(task, row_formats.CAUSAL, {"inputs": 5})
  finally:
    seqio.TaskRegistry.remove(name)
