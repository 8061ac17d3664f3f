"""Reads seqio tasks as global batches, in a stream that resumes exactly.

Only the settings are imported here, so that TensorFlow is not loaded.
"""

from t5x_lite.data.spec import Data

__all__ = ["Data"]
