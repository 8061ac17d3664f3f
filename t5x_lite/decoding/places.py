"""Places: which slots of a shared cache each row of a batch has."""

import numpy as np


class Places:
  """Gives slots to rows that come and go, and takes them back.

  Attributes:
    of_rows: int32 [rows, S], as `PooledKVCache.places`: the slots of each row;
      `slots` where it has none.
  """

  def __init__(self, rows: int, length: int, slots: int):
    """Makes rows without slots.

    Args:
      rows: how many there are.
      length: S, the most slots that a row may have.
      slots: how many there are of all rows together.

    Raises:
      ValueError: fewer than one row may have.
    """
    if slots < length:
      raise ValueError(
        f"slots ({slots}) must be at least {length}, for the longest prompt "
        "and max_new_tokens"
      )
    self.of_rows = np.full((rows, length), slots, np.int32)
    self._slots = slots
    self._left = list(range(slots))

  def reserve(self, row: int, count: int) -> bool:
    """Gives a row without slots so many, or none if there are too few."""
    if len(self._left) < count:
      return False
    self.of_rows[row, :count] = self._left[:count]
    del self._left[:count]
    return True

  def free(self, rows: np.ndarray) -> None:
    """Takes the slots of some rows back."""
    found = self.of_rows[rows]
    self._left += found[found < self._slots].tolist()
    self.of_rows[rows] = self._slots
