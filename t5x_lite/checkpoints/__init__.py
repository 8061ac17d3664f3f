"""Saves a run's checkpoints with Orbax and verifies them when they are read.

This file imports only the settings, so that it loads fast.
"""

from t5x_lite.checkpoints.spec import Retention, WarmStart

__all__ = ["Retention", "WarmStart"]
