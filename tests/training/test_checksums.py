"""Checksums: what changes them, and what does not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t5x_lite.devices.layout import Layout
from t5x_lite.training import checksums, step
from tests import tiny

MODEL = tiny.palm(num_layers=1)


@pytest.fixture(scope="module")
def batch():
  sizes = (4, 3, 5, 2, 1, 6, 2, 7)
  return tiny.batch(MODEL, inputs=sizes, targets=sizes[::-1])


def of(batch):
  return int(checksums.of_batch(batch))


def test_every_token_of_every_array_counts(batch):
  found = {of(batch)}
  for name, values in batch.items():
    for place in [(0, 0), (3, 5), (7, -1)]:
      changed = values.copy()
      changed[place] += 1
      found.add(of(batch | {name: changed}))
  assert len(found) == 1 + 3 * len(batch)


def test_tokens_exchanged_between_rows_or_arrays_count(batch):
  first, second = "decoder_target_tokens", "decoder_input_tokens"
  exchanged = batch[first].copy()
  exchanged[[0, 1], 2] = exchanged[[1, 0], 2]
  assert (exchanged != batch[first]).any()
  swapped = {first: batch[second], second: batch[first]}
  assert len({of(batch), of(batch | {first: exchanged}),
              of(batch | swapped)}) == 3  # fmt: skip


def test_order_of_rows_and_of_arrays_does_not_count(batch):
  turned = {name: batch[name][::-1] for name in reversed(batch)}
  assert of(turned) == of(batch)


@pytest.mark.parametrize(
  ["mesh", "microbatches"],
  [
    ({"data": 8}, 1),
    ({"data": 2, "tensor": 4}, 4),
    ({"data": 1, "fsdp": 8}, 1),
  ],
)
def test_a_step_digests_the_batch_on_any_mesh(mesh, microbatches, batch):
  optimizer = optax.sgd(0.1)
  state = step.init_state(MODEL, optimizer, jax.random.key(0))
  function = step.train_step(
    MODEL, optimizer, microbatches=microbatches, dropout_key=jax.random.key(0)
  )
  layout = Layout(mesh=mesh).fit(MODEL.logical_axes(), state.params)
  with layout.activate():
    _, metrics = tiny.jit(function)(state, layout.shard_batch(batch))
  assert int(metrics.batch_digest) == of(batch)


@pytest.mark.parametrize(
  "dtype", ["float32", "bfloat16", "float16", "int32", "int8", "bool"]
)
def test_each_flipped_bit_of_one_copy_is_seen_and_where(dtype):
  mesh = Layout(mesh={"data": 2, "tensor": 4}).device_mesh()
  sharding = NamedSharding(mesh, PartitionSpec(None, "tensor"))
  values = np.arange(48).reshape(6, 8).astype(jnp.dtype(dtype))
  sound = jax.device_put(values, sharding)
  shards = [shard.data for shard in sound.addressable_shards]
  before = checksums.of_copies([sound])
  number = [d.id for d in mesh.devices.flat].index(5)
  bits = 1 if dtype == "bool" else 8 * values.dtype.itemsize
  for bit in range(bits):
    damaged = np.array(shards[number])
    raw = damaged.view(np.uint8)
    raw[3, bit // 8] ^= np.uint8(1 << bit % 8)
    shard = jax.device_put(damaged, shards[number].device)
    copies = [*shards[:number], shard, *shards[number + 1 :]]
    after = checksums.of_copies(
      [jax.make_array_from_single_device_arrays((6, 8), sharding, copies)]
    )
    assert np.flatnonzero(after != before).tolist() == [number]
