"""Topologies by name, and the links between the devices of a group."""

import types

import pytest

from t5x_lite.accounting import topologies


@pytest.mark.parametrize(
  ["name", "devices", "rings"],
  [
    ("v4:2x2x2", 8, (False, False, False)),
    ("v4:4x4x8", 128, (True, True, True)),
    ("v5p:2x4x4", 32, (False, False, False)),
    ("v5p:4x4x4", 64, (True, True, True)),
    ("v5e:1x1", 1, (False, False)),
    ("v5e:8x16", 128, (False, True)),
    ("v6e:16x16", 256, (True, True)),
    ("tpu7x:2x2x1", 8, (False, False, False)),
    ("h100x8", 8, (False,)),
    ("A100x4", 4, (False,)),
  ],
)
def test_a_slice_of_whole_cubes_is_a_torus(name, devices, rings):
  topology = topologies.parse(name)
  assert topology.num_devices == devices
  assert topology.wrap == rings


@pytest.mark.parametrize(
  ["name", "hint"],
  [
    ("v5p:4x4x5", "v5p:4x4x4"),
    ("v5p:4x4", "v5p:4x4x4"),
    ("v5:4x4", "v5e:4x4"),
    ("v6e:4x3", "v6e:4x4"),
    ("v7x:2x2x1", "tpu7x:2x2x1"),
    ("h100x3", "h100x8"),
    ("h100", "h100x8"),
    ("v5p:96x96x96", "none that exists"),
    ("", "none that exists"),
    ("v5p:4x4x4x", "v5p:4x4x4"),
  ],
)
def test_what_does_not_exist_is_refused_with_near_names(name, hint):
  with pytest.raises(ValueError, match="topology=") as error:
    topologies.parse(name)
  assert hint in f"{error.value}" and "\n" not in f"{error.value}"


def at(*coords, slice_index=0):
  return types.SimpleNamespace(coords=coords, slice_index=slice_index)


@pytest.mark.parametrize(
  ["name", "group", "links"],
  [
    # Round a ring, from both sides; part of it is a line.
    ("v5p:4x4x4", [at(0, 0, z) for z in range(4)], 2),
    ("v5p:4x4x4", [at(0, 0, z) for z in range(2)], 1),
    ("v5p:4x4x4", [at(x, y, 0) for x in range(4) for y in range(4)], 4),
    # The first of a line has one neighbour.
    ("v5p:2x2x4", [at(0, 0, z) for z in range(4)], 1),
    # Two diagonals of a square share its links.
    ("v5p:2x2x4", [at(0, 0, 0), at(1, 1, 0)], 1),
    ("v5p:2x4x4", [at(0, y, z) for y in range(4) for z in range(4)], 2),
  ],
)
def test_each_dim_of_a_group_brings_its_links(name, group, links):
  topology = topologies.parse(name)
  assert topology.bytes_per_s(group) == links * 9e10


def test_slices_are_joined_by_the_network():
  topology = topologies.parse("v5p:4x4x4", num_slices=2)
  assert topology.num_devices == 128
  group = [at(0, 0, 0), at(0, 0, 0, slice_index=1)]
  assert topology.bytes_per_s(group) == topology.chip.network_bytes_per_s


@pytest.mark.parametrize(
  "name", ["v4:2x2x1", "v5e:1x1", "tpu7x:2x2x1", "a100x8"]
)
def test_devices_are_as_many_as_the_topology_says(name):
  topology = topologies.parse(name)
  assert len(topology.devices()) == topology.num_devices


def test_devices_of_several_slices_know_theirs():
  devices = topologies.parse("v5e:2x2", num_slices=2).devices()
  assert sorted(device.slice_index for device in devices) == [0] * 4 + [1] * 4


def test_nodes_are_joined_by_the_network_and_their_gpus_by_a_switch():
  topology = topologies.parse("h200x4", num_slices=2)
  devices = topology.devices()
  assert {device.platform for device in devices} == {"gpu"}
  assert topology.bytes_per_s(devices[:4]) == topology.chip.link_bytes_per_s
  assert topology.bytes_per_s(devices) == topology.chip.network_bytes_per_s


@pytest.mark.parametrize("name", ["h100x8", "v5e:2x2"])
def test_without_a_compiler_there_are_no_devices(name, monkeypatch):
  monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(topologies.NoCompiler, match="t5x_lite.plan"):
    topologies.parse(name).devices()
