"""Builds optimizers and learning rate schedules from frozen objects."""
