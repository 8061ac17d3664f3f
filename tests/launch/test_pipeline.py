"""The pipeline's measurement counts tokens that a model would see."""

import numpy as np
import pytest

from launch import bench, pipeline


def test_tokens_without_padding_are_counted():
  def batches():
    while True:
      yield {
        "encoder_segment_ids": np.array([[1, 1, 2, 0]]),
        "decoder_segment_ids": np.array([[1, 0, 0, 0]]),
      }

  class Counting:
    def __init__(self):
      self.count, self.all = 0, batches()

    def __iter__(self):
      return self

    def __next__(self):
      self.count += 1
      return next(self.all)

  counting = Counting()
  rate = pipeline._tokens_per_s(counting, 0.05)
  measured = counting.count - pipeline._WARM_BATCHES
  # Four tokens a batch, in 0.05 s or little more.
  assert 0 < rate <= 4 * measured / 0.05


def test_a_model_without_inputs_is_refused():
  with pytest.raises(ValueError, match="--pipeline needs a length of inputs"):
    bench._pipeline({"targets": 128})


def test_our_pipeline_is_measured_where_theirs_is_not_installed():
  found = pipeline.measure(64, seconds=0.05)
  assert found["pipeline_tokens_per_s"] > 0
  assert found["t5_pipeline_tokens_per_s"] is None
