"""Losses: small frozen objects that score a batch under a model (terms.py)."""

from t5x_lite.losses.classification import Classification, Reward
from t5x_lite.losses.cross_entropy import CrossEntropy
from t5x_lite.losses.terms import Loss, Term, Terms, objective, sown_terms

__all__ = [
  "Classification", "CrossEntropy", "Loss", "Reward", "Term", "Terms",
  "objective", "sown_terms",
]  # fmt: skip
