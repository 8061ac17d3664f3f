"""Builds optimizers and learning rate schedules from frozen objects."""

from etils import epy

with epy.lazy_api_imports(globals()):
  from t5x_lite.optim.optimizers import Adafactor, AdamW, Optimizer
  from t5x_lite.optim.schedules import (
    WSD,
    Constant,
    Cosine,
    LinearWarmup,
    Rsqrt,
    Schedule,
  )
