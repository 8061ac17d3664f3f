"""Chooses what a training step computes again, and in how many pieces."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from t5x_lite.accounting import costs, model_structure
from t5x_lite.devices import agreement, memory
from t5x_lite.nn import remat

AUTO = "auto"


class Fitted(NamedTuple):
  """A training step that fits the devices, as far as is known.

  Attributes:
    model: with a rematerialisation policy wherever a stack had "auto".
    microbatches: the number of microbatches per batch.
    account: of the step, as of costs.describe.
  """

  model: Any
  microbatches: int
  account: dict


def fit(model, *, layout, **step) -> Fitted:
  """Fits a training step to the memory of the devices that are here.

  Args:
    model, layout, step: as `choose` has them.

  Raises:
    ValueError: nothing fits, or the batch does not divide.
  """
  platform, available = jax.default_backend(), memory.available_bytes()
  if platform != "cpu" or step["microbatches"] == AUTO:
    # All processes must choose the same.
    available = agreement.least_bytes(available)
  fitted = choose(
    model, layout=layout, platform=platform, available=available, **step
  )
  memory.check_memory(fitted.account)
  return fitted


def choose(
  model,
  *,
  batch_size: int,
  lengths: Mapping[str, int],
  optimizer,
  microbatches: int | str,
  layout,
  platform: str,
  available: int | None,
) -> Fitted:
  """Chooses for each "auto" what fits, or else what needs the least memory.

  Where microbatches is "auto", it takes the fewest that fit, and where
  Stack.remat is, of these the fastest policy (nn/remat.py). On a CPU, where
  memory is rarely scarce, "auto" of a stack is as nn/remat.py says.

  Args:
    model: a model.Model with a known vocabulary size.
    batch_size: rows of a global batch.
    lengths: {task feature: tokens}.
    optimizer: one of optim.optimizers.
    microbatches: a number, or "auto".
    layout: a devices.layout.Layout.
    platform: "cpu", "gpu" or "tpu".
    available: bytes of a device; None if they are not known.

  Raises:
    ValueError: the batch does not divide.
  """
  for pieces in _pieces(microbatches, batch_size, model.loss, layout):
    for one in _policies(model, platform, available):
      account = costs.describe(
        one, batch_size=batch_size, lengths=lengths, optimizer=optimizer,
        microbatches=pieces, platform=platform, layout=layout,
      )  # fmt: skip
      fitted = Fitted(one, pieces, account)
      needed = account["bytes"]["total"]
      if available is None or math.isnan(needed):
        return fitted
      # The prediction may be so much too low.
      if needed * (1 + memory.TOLERANCE) <= available:
        return fitted
  return fitted


def _pieces(microbatches, batch_size, loss, layout) -> Iterator[int]:
  """Yields the numbers of microbatches to try, the fewest first."""
  if microbatches != AUTO:
    yield microbatches
    return
  layout.check_batch(batch_size)
  shards = math.prod(
    layout.device_mesh().shape[axis] for axis in layout.batch_axes
  )
  units = batch_size // (shards * loss.rows_per_unit)
  yield from (n for n in range(1, max(1, units) + 1) if units % n == 0)


def _policies(model, platform, available) -> Iterator[Any]:
  """Yields the model with the policies to try, the fastest first."""
  if platform == "cpu" or available is None:
    yield model_structure.with_settled_remat(model)
    return
  stacks = model_structure.stacks(model)
  automatic = any(stack.remat == remat.AUTO for stack in stacks)
  for policy in remat.by_cost(platform) if automatic else (None,):
    yield model_structure.with_auto_remat(model, policy)


def chosen(model, microbatches: int) -> list[str]:
  """Lists what a summary says of remat and microbatches, where there are."""
  policies = {stack.remat for stack in model_structure.stacks(model)} - {None}
  parts = [f"remat {policy}" for policy in sorted(policies)]
  return parts + [f"{microbatches} microbatches"] * (microbatches > 1)
