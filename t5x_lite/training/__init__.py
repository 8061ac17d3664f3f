"""Trains a model: the run's settings, the training loop and its logs.

Names are imported when they are first used: `Run` and `train_step` load no
TensorFlow.
"""

import sys
import types

from etils import epy

with epy.lazy_api_imports(globals()):
  from t5x_lite.training.run import Run
  from t5x_lite.training.step import TrainState, init_state, train_step
  from t5x_lite.training.train import train


class _Package(types.ModuleType):
  """Keeps `training.train` the function: importing train.py would set it."""

  def __setattr__(self, name, value):
    if name == "train" and isinstance(value, types.ModuleType):
      value = value.train
    super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
