"""Evaluates a model: loss on held-out batches, and tasks' own metrics."""

from etils import epy

with epy.lazy_api_imports(globals()):
  from t5x_lite.evaluation.evaluate import teacher_forced
  from t5x_lite.evaluation.metrics import task_metrics
