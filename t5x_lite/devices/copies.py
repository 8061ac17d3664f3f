"""Divides devices among copies of a model: a mesh of data by tensor.

8 devices   copies=8   each device has the model, and an eighth of the rows
            copies=2   4 devices share a copy, cut over "tensor"
            copies=1   all 8 share one
"""

from t5x_lite.devices import meshes
from t5x_lite.devices.layout import Layout


def numbers() -> list[int]:
  """Returns how many copies the devices can hold, the most first."""
  devices = meshes.device_count()
  return [n for n in range(devices, 0, -1) if devices % n == 0]


def layout(copies: int) -> Layout:
  """Returns the layout of so many copies.

  Raises:
    ValueError: the devices cannot be divided so.
  """
  if copies not in numbers():
    raise ValueError(
      f"copies={copies} does not divide the {meshes.device_count()} devices: "
      f"use one of {', '.join(map(str, numbers()))}"
    )
  return Layout(mesh={"data": copies, "tensor": -1})
