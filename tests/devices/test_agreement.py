"""What differs between the processes of a run is said before it starts."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from t5x_lite.devices import agreement

SAME = {"seed": "0", "commit": "abc"}


def test_equal_facts_have_no_differences():
  assert agreement.differences([SAME, SAME, dict(reversed(SAME.items()))]) == []


@pytest.mark.parametrize(
  ["facts", "line"],
  [
    ([SAME, SAME | {"seed": "1"}], "seed is 1 on process 1, 0 on the others"),
    # The majority is right, wherever it stands.
    (
      [SAME | {"seed": "1"}, SAME, SAME],
      "seed is 1 on process 0, 0 on the others",
    ),
    (
      [SAME, SAME | {"seed": "1"}, SAME | {"seed": "2"}, SAME],
      "seed is 1 on process 1, 2 on process 2, 0 on the others",
    ),
    (
      [SAME, {"seed": "0"}, {"seed": "0"}, SAME, SAME],
      "commit is missing on processes 1, 2, abc on the others",
    ),
    (
      [SAME] * 8 + [SAME | {"seed": "1"}] * 6,
      "seed is 1 on processes 8, 9, 10, 11 and 2 more, 0 on the others",
    ),
  ],
)
def test_a_difference_names_the_fact_and_the_processes(facts, line):
  assert agreement.differences(facts) == [line]


@pytest.fixture
def two_processes(monkeypatch):
  """Makes this process the first of two; returns a setter of the second's."""
  sent = []

  def gather(value):
    # The second process sends what the first has in its place.
    mine = np.asarray(value)
    if not mine.ndim:
      sent.clear()
    sent.append(mine)
    other = others[len(sent) - 1](mine)
    return np.stack([mine, other])

  others = [lambda x: x, lambda x: x]
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(multihost_utils, "process_allgather", gather)
  return others


def test_long_values_are_compared_by_their_digests(two_processes):
  long = {"program": "line\n" * 1000, "wörld": "ü\tx"}
  agreement.check(long)
  two_processes[1] = lambda row: np.where(
    np.arange(len(row)) == list(row).index(ord("#")) + 1, ord("?"), row
  ).astype(np.uint8)
  with pytest.raises(ValueError, match=r"program is #\?\w{11} on process 1, #"):
    agreement.check(long)


def test_many_differences_are_one_line(two_processes):
  facts = {f"setting {i}": "aaa" for i in range(30)}
  two_processes[1] = lambda row: np.where(
    row == ord("a"), ord("b"), row
  ).astype(np.uint8)
  with pytest.raises(ValueError, match="differ: .*; and 26 more; start") as e:
    agreement.check(facts)
  assert "\n" not in str(e.value)


def test_one_process_agrees_with_itself():
  agreement.check(SAME)


@pytest.mark.parametrize(
  "own, other, least",
  [
    (90 * 2**30, 80 * 2**30, 80 * 2**30),
    (3 * 2**20 + 5, 90 * 2**30, 3 * 2**20),
    (None, 80 * 2**30, None),
    (80 * 2**30, None, None),
  ],
)
def test_memory_is_what_the_poorest_process_has(
  two_processes, own, other, least
):
  two_processes[0] = lambda _: np.int32(-1 if other is None else other >> 20)
  assert agreement.least_bytes(own) == least


def test_one_process_has_its_own_memory():
  assert agreement.least_bytes(12345) == 12345
  assert agreement.least_bytes(None) is None
