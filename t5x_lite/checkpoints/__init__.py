"""Saves a run's checkpoints with Orbax and verifies them when they are read.

Names are imported when they are first used: the settings load no Orbax.
"""

from etils import epy

with epy.lazy_api_imports(globals()):
  from t5x_lite.checkpoints.manager import Checkpoints
  from t5x_lite.checkpoints.spec import Retention, WarmStart
