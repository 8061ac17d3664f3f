"""Generates, scores and inspects texts with a trained model."""
