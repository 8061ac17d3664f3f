"""Meshes over several processes and slices."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_lite.devices import meshes
from t5x_lite.devices.layout import Layout
from tests.devices.test_layout import HSDP


@dataclasses.dataclass(frozen=True)
class FakeDevice:
  """Stands for a device of another process or slice."""

  id: int
  process_index: int
  slice_index: int = 0
  platform: str = "cpu"
  device_kind: str = "cpu"


def fake_processes(monkeypatch, mesh, process_index, devices_each=2):
  """Lets eight devices be those of several processes."""
  processes = [FakeDevice(i, i // devices_each) for i in range(8)]

  class FakeMesh:
    devices = np.array(processes).reshape(tuple(mesh.values()))
    axis_names = tuple(mesh)
    shape = mesh

  monkeypatch.setattr(Layout, "device_mesh", lambda self: FakeMesh)
  monkeypatch.setattr(jax, "process_index", lambda: process_index)


@pytest.mark.parametrize(
  "mesh, process_index, shard",
  [
    # Four processes of two devices each.
    ({"data": 8}, 0, (0, 4)),
    ({"data": 8, "tensor": 1}, 3, (3, 4)),
    ({"data": 4, "tensor": 2}, 1, (1, 4)),
    # "tensor" goes across two processes: both read the same rows.
    ({"data": 2, "tensor": 4}, 0, (0, 2)),
    ({"data": 2, "tensor": 4}, 1, (0, 2)),
    ({"data": 2, "tensor": 4}, 2, (1, 2)),
    ({"data": 1, "tensor": 8}, 3, (0, 1)),
    ({"tensor": 4, "data": 2}, 3, (0, 1)),
    ({"tensor": 8}, 3, (0, 1)),
    # Rows are shared over "data" and "fsdp" alike.
    (HSDP, 0, (0, 4)),
    (HSDP, 3, (3, 4)),
    ({"data": 4, "fsdp": 2}, 2, (2, 4)),
    ({"data": 2, "tensor": 2, "fsdp": 2}, 1, (0, 2)),
  ],
)
def test_processes_that_share_rows_read_the_same(
  monkeypatch, mesh, process_index, shard
):
  fake_processes(monkeypatch, mesh, process_index)
  assert Layout(mesh=mesh).data_shard() == shard


def test_rows_of_a_process_in_several_pieces_are_refused(monkeypatch):
  mesh = {"fsdp": 4, "data": 2}
  fake_processes(monkeypatch, mesh, 1)
  message = r"process 1 holds parts \[1, 5\] of 8 .* data and fsdp come first"
  with pytest.raises(ValueError, match=message):
    Layout(mesh=mesh).data_shard()


def test_tensor_axis_stays_within_a_slice():
  # Listed in turns: slice 0, 1, 0, 1...
  devices = [FakeDevice(i, i % 2, slice_index=i % 2) for i in range(8)]
  mesh = meshes.arrange_slices(devices, {"data": 4, "tensor": 2}, None)
  assert mesh.shape == (4, 2)
  slices = [[d.slice_index for d in row] for row in mesh]
  assert slices == [[0, 0], [0, 0], [1, 1], [1, 1]]


def test_processes_may_stand_for_slices():
  devices = [FakeDevice(i, i % 4) for i in range(8)]
  mesh = meshes.arrange_slices(devices, {"data": 4, "tensor": 2}, 4)
  rows = [[d.process_index for d in row] for row in mesh]
  assert rows == [[0, 0], [1, 1], [2, 2], [3, 3]]
  assert meshes.arrange_slices(devices, {"data": 4, "tensor": 2}, None) is None


def test_slices_that_do_not_fit_are_refused_only_when_asked_for():
  devices = [FakeDevice(i, i % 2, slice_index=i % 2) for i in range(8)]
  with pytest.raises(ValueError, match=r"data \(1\) must be .* \(2\)"):
    meshes.arrange_slices(devices, {"data": 1, "tensor": 8}, 2)
  assert meshes.arrange_slices(devices, {"data": 1, "tensor": 8}, None) is None
