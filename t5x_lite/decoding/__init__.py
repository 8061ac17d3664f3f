"""Turns a model's next-token logits into sequences."""

from t5x_lite.decoding.loop import GREEDY, Generated, generate
from t5x_lite.decoding.samplers import Greedy, Sample

__all__ = ["GREEDY", "Generated", "Greedy", "Sample", "generate"]
