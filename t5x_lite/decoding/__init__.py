"""Generates token sequences from a model's next-token logits."""

from t5x_lite.decoding.constraints import Constraints
from t5x_lite.decoding.loop import (
  GREEDY,
  UNCONSTRAINED,
  Generated,
  Predictor,
  generate,
)
from t5x_lite.decoding.samplers import Greedy, Sample, Sampler

__all__ = [
  "GREEDY", "UNCONSTRAINED", "Constraints", "Generated", "Greedy", "Predictor",
  "Sample", "Sampler", "generate",
]  # fmt: skip
