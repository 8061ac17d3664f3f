"""Evaluates parameters: loss on held-out batches, and tasks' own metrics."""
