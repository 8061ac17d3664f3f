"""Checkpoints of a run: written by orbax, verified when they are read.

Only the settings are imported here.
"""

from t5x_lite.checkpoints.spec import Retention, WarmStart

__all__ = ["Retention", "WarmStart"]
