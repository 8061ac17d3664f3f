"""Attention kernels: one signature, and one table that says who takes what."""

from etils import epy

with epy.lazy_api_imports(globals()):
  from t5x_lite.nn.kernels.bias import Buckets, Slopes
  from t5x_lite.nn.kernels.table import KERNELS, choose
  from t5x_lite.nn.kernels.visibility import Pattern, Visibility
