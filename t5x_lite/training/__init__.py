"""Trains a model: the run's settings, the training loop and its logs."""
