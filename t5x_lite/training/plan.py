"""Plans a step on devices that are not here: memory, seconds and MFU."""

import dataclasses
import math
from typing import Any

import jax

from t5x_lite.accounting import (
  closed_form,
  fitting,
  program_costs,
  visible_pairs,
)
from t5x_lite.accounting.program_costs import ProgramCosts
from t5x_lite.accounting.topologies import NoCompiler, Topology
from t5x_lite.devices import meshes
from t5x_lite.nn.kernels import table
from t5x_lite.training import planned_step
from t5x_lite.training.planned_step import Case, OutOfMemory, Placed


def plan(
  case: Case, topology: Topology, *, compiles: bool = True
) -> dict[str, Any]:
  """Plans a step: compiles it, or where nothing can, counts it.

  Args:
    case: the step.
    topology: the devices.
    compiles: whether to compile it where something can.

  Returns:
    - "method": "compiled", or "arithmetic (REASON)";
    - "step": "training" or "decode"; "topology", "devices", "batch_size",
      "lengths", "microbatches", "dtype", "kernel", "remat" and "layout" (mesh
      axis -> devices);
    - "bytes" of a device: "parameters", "optimizer", "temporaries" (all other:
      gradients, activations, batch, cache), "peak" and "capacity"; "fits";
    - "mfu" (model FLOPs of a device over peak and seconds), "step_s" =
      "compute_s" + "link_s"; "kernel_s" and "recompute_s", parts of
      "compute_s"; all None where the compiler refuses a step that does not fit;
    - "collectives": "kind", "axes", "count", "bytes" and "seconds" of each;
    - "by_module": seconds of compute by component; "flops" of a device.

  Raises:
    ValueError: the layout does not fit the devices, or the batch the layout.
  """
  devices, reason = topology.num_devices, "not compiled"
  if compiles:
    try:
      devices, reason = topology.devices(), None
    except NoCompiler as error:
      reason = error
  with meshes.absent(devices):
    case.check()
    model, microbatches, account = fitting.choose(
      case.model,
      batch_size=case.batch_size,
      lengths=case.lengths,
      optimizer=case.optimizer,
      microbatches=case.microbatches,
      layout=case.layout,
      platform="tpu" if topology.chip.dims else "gpu",
      available=topology.chip.hbm_bytes,
    )
    case = dataclasses.replace(case, model=model, microbatches=microbatches)
    placed = planned_step.place(case)
    if reason is None:
      method = "compiled"
      peak, spent = _compiled(placed, topology)
    else:
      method = f"arithmetic ({reason})"
      peak, spent = _counted(placed, account, topology)
    return _result(placed, account, topology, method, peak, spent)


def _compiled(placed: Placed, topology) -> tuple[int, ProgramCosts | None]:
  """Returns the bytes that a compiled step needs and its seconds."""
  try:
    compiled = planned_step.compile_step(placed)
  except OutOfMemory as error:
    return error.nbytes, None
  case = placed.case
  spent = program_costs.estimate(
    compiled.as_text(),
    topology,
    case.layout.device_mesh(),
    visible_pairs.by_component(case.model, case.rows),
  )
  return compiled.memory_analysis().peak_memory_in_bytes, spent


def _counted(placed: Placed, account, topology) -> tuple[int, ProgramCosts]:
  """Returns the same by arithmetic."""
  case = placed.case
  if case.decode:
    read = _shard_bytes((placed.state, placed.other))
    flops = _flops(case, account) / topology.num_devices
    return read, closed_form.decoding(flops, read, topology)
  spent = closed_form.training(
    case.model,
    account,
    placed.state.params,
    case.layout,
    topology,
    case.microbatches,
  )
  return account["bytes"]["total"], spent


def _result(placed, account, topology, method, peak, spent) -> dict[str, Any]:
  case, chip = placed.case, topology.chip
  params = placed.state if case.decode else placed.state.params
  parameters = _shard_bytes(params)
  optimizer = 0 if case.decode else _shard_bytes(placed.state.opt_state)
  stack = case.model.transformer.decoder or case.model.transformer.encoder
  flops = _flops(case, account) / topology.num_devices
  return {
    "method": method,
    "step": "decode" if case.decode else "training",
    "topology": topology.name,
    "slices": topology.num_slices,
    "devices": topology.num_devices,
    "batch_size": case.batch_size,
    "lengths": dict(case.lengths),
    "microbatches": case.microbatches,
    "dtype": case.model.transformer.dtype,
    "kernel": ", ".join(_kernels(case, account)),
    "remat": stack.stacks[0].remat,
    "layout": case.layout.mesh_sizes(topology.num_devices),
    "bytes": {
      "parameters": parameters,
      "optimizer": optimizer,
      "temporaries": peak - parameters - optimizer,
      "peak": peak,
      "capacity": chip.hbm_bytes,
    },
    "fits": spent is not None and peak <= chip.hbm_bytes,
    "flops": flops,
    **_seconds(flops / chip.peak_flops, spent),
  }


def _kernels(case: Case, account) -> list[str]:
  """Lists the kernels of a step's attentions."""
  if case.decode:
    return [name for name, row in table.KERNELS.items() if row.cached]
  return account["kernels"]


def _seconds(ideal_s: float, spent: ProgramCosts | None) -> dict[str, Any]:
  """Returns what a plan says of time: unknown without a program."""
  if spent is None:
    unknown = ("mfu", "step_s", "compute_s", "kernel_s", "recompute_s")
    return {
      **dict.fromkeys((*unknown, "link_s")),
      "collectives": [],
      "by_module": {},
    }
  compute_s = spent.compute_s + spent.kernel_s
  step_s = compute_s + spent.link_s
  return {
    "mfu": ideal_s / step_s,
    "step_s": step_s,
    "compute_s": compute_s,
    "kernel_s": spent.kernel_s,
    "recompute_s": spent.recompute_s,
    "link_s": spent.link_s,
    "collectives": [
      {
        "kind": one.kind,
        "axes": list(one.axes),
        "count": one.count,
        "bytes": one.nbytes,
        "seconds": one.seconds,
      }
      for one in spent.links
    ],
    "by_module": spent.by_module,
  }


def _flops(case: Case, account) -> float:
  """Returns the model FLOPs of a step, of all devices."""
  if not case.decode:
    return account["flops_per_step"]
  # A token costs what it costs in a forward pass over whole rows.
  forward = sum(
    count / 3
    for name, count in account["flops"]["by_component"].items()
    if name.split("/")[0] in ("decoder", "head")
  )
  return forward / case.rows["decoder"]


def _shard_bytes(tree) -> int:
  """Returns the bytes of a device's share of abstract arrays."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )
