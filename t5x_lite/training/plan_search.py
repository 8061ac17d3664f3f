"""Searches for the remat policy, mesh and microbatches of the fastest step."""

import dataclasses
import itertools
from typing import Any

from t5x_lite.accounting import model_structure
from t5x_lite.accounting.topologies import Topology
from t5x_lite.files.slow import counted
from t5x_lite.nn import remat as policies
from t5x_lite.training import plan as planning
from t5x_lite.training.planned_step import Case

_MICROBATCHES = (1, 2, 4, 8)
_MESHES = (
  {"data": -1},
  {"fsdp": -1},
  {"fsdp": -1, "tensor": 2},
  {"fsdp": -1, "tensor": 4},
)
# How many are compiled, besides the step as it is.
_COMPILED = 3
# Arithmetic may be so far off a compiled peak.
_MARGIN = 1.3


def search(case: Case, topology: Topology) -> list[dict[str, Any]]:
  """Plans a step and its variants.

  All are ranked by arithmetic; the best, and the step as it is, are then
  compiled where something compiles.

  Returns:
    Plans (`plan.plan`): those that fit first, the fastest before others.

  Raises:
    ValueError: the step as it is does not fit the devices or its batch.
  """
  first = planning.plan(case, topology, compiles=False)
  case = dataclasses.replace(
    case,
    model=model_structure.with_auto_remat(case.model, first["remat"]),
    microbatches=first["microbatches"],
  )
  ways = _ways(case, topology)
  ranked = []
  for remat, mesh in counted(ways, "ranking variants"):
    ranked += _counted(case, topology, remat, mesh)
  ranked.sort(key=lambda pair: _rank(pair[0], _MARGIN))
  kept = [case, *(one for _, one in ranked[:_COMPILED])]
  plans = [
    planning.plan(one, topology) for one in counted(kept, "planning variants")
  ]
  return sorted(plans, key=_rank)


def _counted(case, topology, remat, mesh) -> list[tuple[dict, Case]]:
  """Counts a variant, in as few microbatches as fit the device's memory."""
  found = []
  for number in (1,) if case.decode else _MICROBATCHES:
    other = dataclasses.replace(
      case,
      model=model_structure.with_remat(case.model, remat),
      layout=dataclasses.replace(case.layout, mesh=mesh, rules=()),
      microbatches=number,
    )
    try:
      plan = planning.plan(other, topology, compiles=False)
    except ValueError:  # The mesh or the batch cannot be divided so.
      return found
    if not _same(other, case):
      found.append((plan, other))
    if plan["fits"]:
      return found
  return found


def _ways(
  case: Case, topology: Topology
) -> list[tuple[str | None, dict[str, int]]]:
  """Lists remat policies and meshes to try."""
  heads = min(
    layer.attention.num_heads
    for stack in model_structure.stacks(case.model)
    for layer in stack.layers
  )
  meshes = [m for m in _MESHES if heads % m.get("tensor", 1) == 0]
  if topology.num_slices > 1:  # Only gradients cross the slower network.
    meshes += [
      {"data": topology.num_slices, **m} for m in meshes if "data" not in m
    ]
  # Nothing is recomputed where nothing is differentiated.
  remats = _remats(case.model)[:1] if case.decode else policies.BY_COST
  return list(itertools.product(remats, meshes))


def _rank(plan, margin=1.0):
  """Returns what plans are sorted by; `margin` times the memory fits."""
  peak, capacity = plan["bytes"]["peak"], plan["bytes"]["capacity"]
  if plan["step_s"] is None or peak > margin * capacity:
    return (1, peak)
  return (0, plan["step_s"], plan["microbatches"])


def _same(one: Case, other: Case) -> bool:
  return (_remats(one.model), one.layout, one.microbatches) == (
    _remats(other.model),
    other.layout,
    other.microbatches,
  )


def _remats(model) -> list[str | None]:
  return [stack.remat for stack in model_structure.stacks(model)]
