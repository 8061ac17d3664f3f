"""Compares numbers as closely as their arithmetic fixes them, and no closer.

Two machines, or two programs, add up the same numbers in another order, with
or without fused multiply-adds. Each addition rounds by up to 2**-24 (float32)
of its largest summand: how small the sum comes out in the end does not matter.
So tolerances here are absolute, and are counted in such roundings.
"""

import jax
import numpy as np

UNIT = np.finfo(np.float32).eps / 2


def assert_close(actual, expected, *, roundings: int, summand=None):
  """Compares two trees of float32 arrays leaf by leaf.

  Args:
    actual: a tree of arrays, or one array.
    expected: of the same structure.
    roundings: how many stand between inputs and outcome, at most; of a sum of
      many, on the way of any one summand.
    summand: the largest summand, where it is not a leaf's largest value: where
      what was summed has cancelled in all of the leaf.
  """
  assert jax.tree.structure(actual) == jax.tree.structure(expected)

  def compare(path, a, e):
    largest = np.max(np.abs(e), initial=0) if summand is None else summand
    np.testing.assert_allclose(
      a, e, rtol=0, atol=roundings * UNIT * largest,
      err_msg=jax.tree_util.keystr(path),
    )  # fmt: skip

  jax.tree.map_with_path(compare, actual, expected)
