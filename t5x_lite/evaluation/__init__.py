"""Evaluates a model: loss on held-out batches, and tasks' own metrics."""
