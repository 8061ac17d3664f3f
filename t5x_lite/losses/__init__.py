"""Losses as pure functions of logits and targets."""

from t5x_lite.losses.cross_entropy import CrossEntropy

__all__ = ["CrossEntropy"]
