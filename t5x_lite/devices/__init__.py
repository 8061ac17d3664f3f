"""Devices: which of them hold what, and what they have room for."""

from etils import epy

with epy.lazy_api_imports(globals()):
  from t5x_lite.devices.layout import Layout
