"""Counts parameters, FLOPs and bytes of a model before it is built."""

from etils import epy

with epy.lazy_api_imports(globals()):
  from t5x_lite.accounting.costs import describe
