"""Digests find what changed, under any sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from t5x_lite.checkpoints import digests


def sharded(array, *spec, data=4, tensor=2):
  mesh = jax.make_mesh((data, tensor), ("data", "tensor"))
  return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))


def record(array):
  return digests.shard_digests(digests.host_shards(array))


def test_every_flipped_bit_changes_the_digest():
  data = np.arange(6, dtype=np.float32)
  seen = {digests.digest(data)}
  for bit in range(8 * data.nbytes):
    flipped = bytearray(data.tobytes())
    flipped[bit // 8] ^= 1 << bit % 8
    seen.add(digests.digest(bytes(flipped)))
  assert len(seen) == 1 + 8 * data.nbytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 2)])
def test_array_matches_its_own_digests(dtype, shape):
  array = jnp.ones(shape, dtype)
  assert digests.matches(array, record(array))
  assert digests.covers(record(array), shape)


@pytest.mark.parametrize("saved", [(), ("data",), (None, "tensor")])
@pytest.mark.parametrize("held", [(), ("tensor",), ("data", "tensor")])
def test_digests_do_not_depend_on_todays_sharding(saved, held):
  values = np.arange(32, dtype=np.float32).reshape(8, 4)
  recorded = record(sharded(values, *saved))
  assert digests.matches(sharded(values, *held), recorded)
  values[5, 3] += 1
  assert not digests.matches(sharded(values, *held), recorded)


def test_replicas_are_recorded_once():
  recorded = record(sharded(np.zeros((8, 4), np.float32), "data"))
  assert list(recorded) == ["0:2,0:4", "2:4,0:4", "4:6,0:4", "6:8,0:4"]


def test_missing_shard_is_noticed():
  recorded = record(sharded(np.zeros((8, 4), np.float32), "data"))
  del recorded["2:4,0:4"]
  assert not digests.covers(recorded, (8, 4))


def test_manifest_that_changed_is_damaged(tmp_path):
  path = epath.Path(tmp_path) / "manifest.json"
  digests.write_manifest(path, {"leaves": {"a": 1}})
  assert digests.read_manifest(path) == {"leaves": {"a": 1}}
  for text in (
    path.read_text().replace("1", "2", 1),
    path.read_text()[:-12],
    "",
    "\x00\n",
  ):
    changed = path.with_name("changed.json")
    changed.write_text(text)
    with pytest.raises(digests.Damaged):
      digests.read_manifest(changed)
  with pytest.raises(digests.Damaged, match="missing"):
    digests.read_manifest(path.with_name("none.json"))


def test_file_digests_see_every_file_below(tmp_path):
  (tmp_path / "a").mkdir()
  (tmp_path / "a/b").write_bytes(b"12")
  (tmp_path / "c").write_bytes(b"")
  found = digests.file_digests(epath.Path(tmp_path))
  assert found == {"a/b": digests.digest(b"12"), "c": "00000000"}
