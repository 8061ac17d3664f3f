"""Makes seqio metrics from log-likelihoods and greedy matches."""

from __future__ import annotations

from collections.abc import Callable

import seqio


def metric(function: Callable) -> type[seqio.metrics.CollectingMetric]:
  """Makes a metric object for seqio.Evaluator from a function.

  Args:
    function: a function of (scores, is_greedy), arrays over examples: the
      log-likelihood of the targets, and whether all of their tokens are the
      most probable ones.
  """

  class OfLikelihoods(seqio.metrics.CollectingMetric):
    """Calls the function with the scores and their intermediates."""

    model_output_type = seqio.metrics.ModelOutputType.SCORE_WITH_INTERMEDIATES

    def actual_compute(
      self, examples, output_features, field="targets", cached_targets=None
    ):
      del output_features
      targets = cached_targets or [
        example[f"{field}_pretokenized"].decode() for example in examples
      ]
      scores, intermediates = self.values["model_output"]
      found = function(scores, intermediates["is_greedy"])
      return found, {"targets": targets, "score": scores}

  OfLikelihoods.__name__ = function.__name__
  return OfLikelihoods
