"""From a seqio task to global batches, on a stream that resumes exactly.

Only the settings are imported here: they load no TensorFlow.
"""

from t5x_lite.data.spec import Data

__all__ = ["Data"]
