"""Turns a model's next-token logits into sequences."""

from t5x_lite.decoding.loop import Generated, generate
from t5x_lite.decoding.samplers import Greedy, Sample

__all__ = ["Generated", "Greedy", "Sample", "generate"]
