"""Makes seqio metrics of log-likelihoods and of what greedy decoding gives."""

from __future__ import annotations

from collections.abc import Callable

import seqio


def metric(function: Callable) -> type[seqio.metrics.CollectingMetric]:
  """Makes a metric, as seqio.Evaluator takes it, of a function.

  Args:
    function: of (scores, is_greedy), arrays over examples: the log-likelihood
      of the targets, and whether each token of them is the most probable one.
  """

  class OfLikelihoods(seqio.metrics.CollectingMetric):
    """Hands over the scores with what stands beside them."""

    model_output_type = seqio.metrics.ModelOutputType.SCORE_WITH_INTERMEDIATES

    def actual_compute(
      self, examples, output_features, field="targets", cached_targets=None
    ):
      del output_features
      targets = cached_targets or [
        example[f"{field}_pretokenized"].decode() for example in examples
      ]
      scores, beside = self.values["model_output"]
      found = function(scores, beside["is_greedy"])
      return found, {"targets": targets, "score": scores}

  OfLikelihoods.__name__ = function.__name__
  return OfLikelihoods
