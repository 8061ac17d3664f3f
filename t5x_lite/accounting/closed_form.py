"""Estimates a step's seconds by arithmetic, where nothing compiles it.

- Compute: the matmul FLOPs of the traced step, with what is recomputed, at
  `MATMUL_SHARE` of the peak, which is what XLA's own large matmuls reach; or
  for a decode step the bytes of parameters and cache at the memory's bandwidth,
  if that is longer. What is no matmul counts nothing.
- Links: a sharded parameter is gathered, in the dtype of activations, for the
  forward and for the backward of each microbatch, and its float32 gradient
  reduce-scattered (ZeRO-3, arXiv:1910.02054, section 7); the gradient is
  all-reduced over other mesh axes of the batch; and over those that shard heads
  and hidden units the output of each branch of a layer is all-reduced forward
  and backward (Megatron, arXiv:1909.08053, section 3), again where it is
  recomputed. None of it is hidden behind compute.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from t5x_lite.accounting.opaque_calls import MATMUL_SHARE
from t5x_lite.accounting.program_costs import Links, ProgramCosts
from t5x_lite.accounting.topologies import Topology
from t5x_lite.devices.layout import Layout, as_axes


def training(
  model,
  account: Mapping,
  params,
  layout: Layout,
  topology: Topology,
  microbatches: int,
) -> ProgramCosts:
  """Estimates a training step.

  Args:
    model: a model.Model.
    account: of costs.describe, of the global batch.
    params: abstract parameters with shardings.
    layout: of this model's parameters.
    topology: the devices.
    microbatches: as in a run.
  """
  speed = MATMUL_SHARE * topology.chip.peak_flops * topology.num_devices
  flops = account["flops"]
  by_component = flops["by_component"]
  scale = flops["hardware"] / max(1, sum(by_component.values()))
  ordered = sorted(by_component.items(), key=lambda item: -item[1])
  links = [
    *_of_parameters(model, params, layout, topology, microbatches),
    *_of_activations(model, account, layout, topology),
  ]
  return ProgramCosts(
    compute_s=flops["hardware"] / speed,
    kernel_s=0.0,
    recompute_s=max(0.0, flops["hardware"] - flops["training"]) / speed,
    links=sorted(links, key=lambda one: -one.seconds),
    by_module={name: scale * count / speed for name, count in ordered if count},
  )


def decoding(flops: float, nbytes: int, topology: Topology) -> ProgramCosts:
  """Estimates a decode step.

  Args:
    flops: of the step, on one device.
    nbytes: of the parameters and the cache that a device reads.
    topology: the devices.
  """
  chip = topology.chip
  matmuls = flops / (MATMUL_SHARE * chip.peak_flops)
  return ProgramCosts(
    compute_s=max(matmuls, nbytes / chip.hbm_bytes_per_s),
    kernel_s=0.0, recompute_s=0.0, links=[], by_module={},
  )  # fmt: skip


def _of_parameters(model, params, layout, topology, microbatches):
  """Yields the gathers of parameters and the sums of their gradients."""
  mesh = layout.device_mesh()
  batch_axes = [a for a in layout.batch_axes if mesh.shape[a] > 1]
  itemsize = jnp.dtype(model.transformer.dtype).itemsize
  sizes: dict[tuple, int] = {}
  for leaf in jax.tree.leaves(params):
    axes = {a for part in leaf.sharding.spec for a in as_axes(part)}
    held = math.prod(leaf.sharding.shard_shape(leaf.shape))
    sharded = tuple(a for a in batch_axes if a in axes)
    # Of the parameter that a device computes with.
    gathered = held * math.prod(mesh.shape[a] for a in sharded)
    sizes[sharded] = sizes.get(sharded, 0) + gathered
  totals: dict[tuple, int] = {}
  for sharded, size in sizes.items():
    others = tuple(a for a in batch_axes if a not in sharded)
    parts = math.prod(mesh.shape[a] for a in sharded)
    if sharded:
      gathers = 2 * microbatches * size * itemsize
      _add(totals, "all-gather", sharded, gathers)
      _add(totals, "reduce-scatter", sharded, microbatches * size * 4)
    if others:
      _add(totals, "all-reduce", others, size // parts * 4)
  for (kind, axes), nbytes in totals.items():
    yield _links(kind, axes, nbytes, layout, topology)


def _of_activations(model, account, layout, topology):
  """Yields the sums over devices that share heads and hidden units."""
  mesh = layout.device_mesh()
  axes = tuple(
    a
    for name, mesh_axes in layout.all_rules
    if name == "mlp"
    for a in as_axes(mesh_axes)
    if mesh.shape[a] > 1
  )
  if not axes:
    return
  rows = account["row_lengths"]
  ways = math.prod(mesh.shape[a] for a in layout.batch_axes)
  itemsize = jnp.dtype(model.transformer.dtype).itemsize
  nbytes = 0
  for side, tokens in rows.items():
    stack = getattr(model.transformer, side) or model.transformer.decoder
    for inner in stack.stacks:
      branches = sum(
        2 + (layer.cross_attention is not None) for layer in inner.layers
      )
      passes = 2 if inner.remat is None else 3
      width = model.transformer.width
      one = account["batch_size"] // ways * tokens * width * itemsize
      nbytes += branches * passes * one
  yield _links("all-reduce", axes, nbytes, layout, topology)


def _links(kind, axes, nbytes, layout, topology) -> Links:
  first = next(iter(layout.mesh))
  crosses = topology.num_slices > 1 and first in axes
  speed = topology.assumed_bytes_per_s(crosses=crosses)
  seconds = nbytes * (2 if kind == "all-reduce" else 1) / speed
  return Links(kind, axes, 1, nbytes, seconds)


def _add(totals, kind, axes, nbytes):
  totals[kind, axes] = totals.get((kind, axes), 0) + nbytes
