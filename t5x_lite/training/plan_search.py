"""Searches for the remat policy, mesh and microbatches of the fastest step."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from t5x_lite.accounting.topologies import Topology
from t5x_lite.devices import meshes
from t5x_lite.files.slow import counted
from t5x_lite.nn.stack import REMAT_POLICIES
from t5x_lite.training import plan as planning
from t5x_lite.training.planned_step import Case

_MICROBATCHES = (1, 2, 4)
_MESHES = (
  {"data": -1},
  {"fsdp": -1},
  {"fsdp": -1, "tensor": 2},
  {"fsdp": -1, "tensor": 4},
)
# How many are compiled, besides the step as it is.
_COMPILED = 6
# Arithmetic may be so far off a compiled peak.
_MARGIN = 1.3


def search(case: Case, topology: Topology) -> list[dict[str, Any]]:
  """Plans a step and its variants.

  All are ranked by arithmetic; those first, and the step as it is, are then
  compiled where something compiles.

  Returns:
    Plans (`plan.plan`): those that fit first, the fastest before others.

  Raises:
    ValueError: the step as it is does not fit the devices or its batch.
  """
  as_it_is = planning.plan(case, topology, compiles=False)
  ranked = [(as_it_is, case)]
  others = list(_variants(case, topology))
  for other in counted(others, "ranking variants"):
    ranked.append((planning.plan(other, topology, compiles=False), other))
  ranked[1:] = sorted(ranked[1:], key=lambda pair: _rank(pair[0], _MARGIN))
  kept = [one for _, one in ranked[: 1 + _COMPILED]]
  plans = [
    planning.plan(one, topology) for one in counted(kept, "planning variants")
  ]
  return sorted(plans, key=_rank)


def _rank(plan, margin=1.0):
  fits = (
    plan["fits"] or plan["bytes"]["peak"] < margin * (plan["bytes"]["capacity"])
  )
  if plan["step_s"] is None or not fits:
    return (1, plan["bytes"]["peak"])
  return (0, plan["step_s"], plan["microbatches"])


def _variants(case: Case, topology: Topology) -> Iterator[Case]:
  """Yields other ways to run the same step that fit devices and batch."""
  remats = (None,) if case.decode else (None, *REMAT_POLICIES)
  numbers = (1,) if case.decode else _MICROBATCHES
  for remat, mesh, number in itertools.product(remats, _MESHES, numbers):
    other = dataclasses.replace(
      case,
      model=case.model if case.decode else _with_remat(case.model, remat),
      layout=dataclasses.replace(case.layout, mesh=mesh, rules=()),
      microbatches=number,
    )
    heads = min(layer.attention.num_heads for layer in _layers(case.model))
    if heads % mesh.get("tensor", 1) or _same(other, case):
      continue
    try:
      with meshes.absent(topology.num_devices):
        other.check()
    except ValueError:
      continue
    yield other


def _same(one: Case, other: Case) -> bool:
  return (_remats(one.model), one.layout, one.microbatches) == (
    _remats(other.model),
    other.layout,
    other.microbatches,
  )


def _sides(model) -> dict:
  transformer = model.transformer
  sides = {"encoder": transformer.encoder, "decoder": transformer.decoder}
  return {name: stack for name, stack in sides.items() if stack is not None}


def _layers(model) -> list:
  return [layer for stack in _sides(model).values() for layer in stack.layers]


def _remats(model) -> list:
  return [one.remat for side in _sides(model).values() for one in side.stacks]


def _with_remat(model, remat):
  sides = {
    name: stack.map_stacks(lambda one: one.clone(remat=remat))
    for name, stack in _sides(model).items()
  }
  transformer = model.transformer.clone(**sides)
  return dataclasses.replace(model, transformer=transformer)
