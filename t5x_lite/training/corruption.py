"""Detects silent data corruption: devices that compute or hold wrong numbers.

At every n-th step the same compiled step runs twice on the same inputs, and the
checksums of all that it returns are compared (checksums.py). The copies of
arrays that several devices hold, parameters under data parallelism for one, are
compared too, across all devices and processes.

This costs one more step and, for as long as it takes, the memory of one more
training state. A device that is wrong in the same way both times is noticed
only where another device holds a copy of its result. Programs must give the
same bits twice: on GPUs that takes XLA_FLAGS=--xla_gpu_deterministic_ops=true.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.files import trees
from t5x_lite.model import Batch
from t5x_lite.training import checksums
from t5x_lite.training.step import Metrics, TrainState

_ADVICE = "do not trust these devices, and go on from an earlier checkpoint"


class CheckedStep:
  """Runs the training step, and checks the devices at every n-th one."""

  def __init__(
    self,
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    *,
    every: int | None,
  ):
    """Takes a compiled step.

    Args:
      step: may donate the state.
      every: as Run.sdc_check_every; None never checks.
    """
    self._step, self._every = step, every
    self._sound = "none has passed since the start"

  def __call__(
    self, number: int, state: TrainState, batch: Batch
  ) -> tuple[TrainState, Metrics]:
    """Returns the step's results; all processes must call this alike.

    Args:
      number: the step's number, from 1.
      state: of before the step.
      batch: the global batch.

    Raises:
      ValueError: the check at this step failed; names the step, the arrays, the
        devices and their processes.
    """
    if self._every is None or number % self._every:
      return self._step(state, batch)
    inputs = _named({"state": state, "batch": batch})
    self._check_copies(number, inputs, checksums.of_copies(inputs.values()))
    copy = jax.tree.map(jnp.copy, state)  # The step may donate its state.
    expected = checksums.of_copies(_results(self._step(copy, batch)).values())
    state, metrics = self._step(state, batch)
    results = _results((state, metrics))
    found = checksums.of_copies(results.values())
    # Copies first: they tell which device is wrong.
    self._check_copies(number, results, found)
    self._refuse(number, results, expected != found, "when computed again")
    self._sound = f"that of step {number} was the last to pass"
    return state, metrics

  def _check_copies(self, number, leaves, sums):
    wrong = _unequal_copies(list(leaves.values()), sums)
    self._refuse(number, leaves, wrong, "in one copy than in another")

  def _refuse(self, number, leaves, wrong, what):
    """Raises ValueError if anything in the table of arrays and devices is."""
    if not wrong.any():
      return
    # Damage spreads, from array to array and to other devices: the array that
    # is wrong on the fewest is the closest to where it comes from.
    rows = np.flatnonzero(wrong.any(axis=1))
    first = min(rows, key=lambda row: wrong[row].sum())
    name, array = list(leaves.items())[first]
    others = f" and {len(rows) - 1} other arrays" * (len(rows) > 1)
    devices = [
      f"device {device.id} (process {device.process_index})"
      for device, is_wrong in zip(
        array.sharding.mesh.devices.flat, wrong[first], strict=True
      )
      if is_wrong
    ]
    raise ValueError(
      f"silent data corruption: at step {number} {name}{others} has other bits "
      f"{what}, on {trees.listed(devices, shown=4)} (Run.sdc_check_every; of "
      f"earlier checks, {self._sound}); {_ADVICE}"
    )


def _results(results: tuple[TrainState, Metrics]) -> dict[str, jax.Array]:
  state, metrics = results
  return _named({"state": state, "metrics": metrics})


def _named(parts: dict[str, Any]) -> dict[str, jax.Array]:
  """Returns the leaves of all parts, in the order of the parts."""
  leaves = {}
  for name, part in parts.items():
    leaves |= trees.named_leaves({name: part})
  return leaves


def _unequal_copies(
  leaves: Sequence[jax.Array], sums: np.ndarray
) -> np.ndarray:
  """Returns which devices hold copies that others do not confirm.

  Args:
    leaves: the arrays.
    sums: their checksums, [arrays, devices].

  Returns:
    bool [arrays, devices]: of copies that differ, those that are not equal to
    most of them; all where none are in the majority.
  """
  wrong = np.zeros(sums.shape, bool)
  for row, leaf in enumerate(leaves):
    holders: dict[str, list[int]] = {}
    indices = leaf.sharding.devices_indices_map(leaf.shape)
    for column, device in enumerate(leaf.sharding.mesh.devices.flat):
      holders.setdefault(str(indices[device]), []).append(column)
    for columns in map(np.array, holders.values()):
      values, counts = np.unique(sums[row, columns], return_counts=True)
      if len(values) > 1:
        usual = values[2 * counts > len(columns)]
        wrong[row, columns] = ~np.isin(sums[row, columns], usual)
  return wrong
