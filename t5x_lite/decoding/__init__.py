"""Generates token sequences from a model's next-token logits."""

from t5x_lite.decoding.assisted import Acceptance, generate_assisted
from t5x_lite.decoding.choices import Generated
from t5x_lite.decoding.constraints import Constraints
from t5x_lite.decoding.continuous import generate_continuously
from t5x_lite.decoding.drafts import Draft, DraftModel, PromptLookup
from t5x_lite.decoding.loop import (
  GREEDY,
  UNCONSTRAINED,
  Predictor,
  generate,
)
from t5x_lite.decoding.samplers import Greedy, Sample, Sampler

__all__ = [
  "GREEDY", "UNCONSTRAINED", "Acceptance", "Constraints", "Draft", "DraftModel",
  "Generated", "Greedy", "Predictor", "PromptLookup", "Sample", "Sampler",
  "generate", "generate_assisted", "generate_continuously",
]  # fmt: skip
