"""Compares the processes of one run at its start: settings, code and program.

Processes that compute different programs wait for each other forever, and those
that compute the same program of different settings train a wrong model.
"""

import hashlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

_SHOWN = 4
_MAX_LENGTH = 60


def check(facts: Mapping[str, str]) -> None:
  """Compares what the processes of this run hold; all of them must call this.

  Args:
    facts: a value for each name; values may be long.

  Raises:
    ValueError: processes differ; the same line in all of them names the facts
      and the processes.
  """
  if jax.process_count() == 1:
    return
  if found := differences(_gather(facts)):
    more = len(found) - _SHOWN
    tail = f"; and {more} more" if more > 0 else ""
    raise ValueError(
      f"the processes of this run differ: {'; '.join(found[:_SHOWN])}{tail}; "
      "start all of them with the same flags, files and versions"
    )


def least_bytes(number: int | None) -> int | None:
  """Returns the least of what the processes of this run have.

  Args:
    number: bytes; None if this process does not know.

  Returns:
    The same in all processes, in whole MiB if there are several; None where one
    does not know.
  """
  if jax.process_count() == 1:
    return number
  # MiB: arrays of JAX have 32 bits.
  own = np.int32(-1 if number is None else number >> 20)
  least = int(multihost_utils.process_allgather(own).min())
  return None if least < 0 else least << 20


def differences(facts: Sequence[Mapping[str, str]]) -> list[str]:
  """Lists "NAME is A on process 1, B on the others" for each that differs.

  Args:
    facts: of each process. "The others" are those with the value that is the
      most frequent, or that of the first process.
  """
  lines = []
  for name in dict.fromkeys(name for one in facts for name in one):
    holders: dict[str, list[int]] = {}
    for process, one in enumerate(facts):
      value = one[name] if name in one else "missing"
      holders.setdefault(value, []).append(process)
    if len(holders) == 1:
      continue
    usual = max(holders, key=lambda value: len(holders[value]))
    parts = [
      f"{value} on {_processes(those)}"
      for value, those in holders.items()
      if value != usual
    ]
    lines.append(f"{name} is {', '.join(parts)}, {usual} on the others")
  return lines


def _processes(numbers: Sequence[int]) -> str:
  """Returns "process 3", "processes 1, 3" or the first ones and a count."""
  listed = ", ".join(map(str, numbers[:_SHOWN]))
  more = len(numbers) - _SHOWN
  tail = f" and {more} more" if more > 0 else ""
  return f"process{'es' if len(numbers) > 1 else ''} {listed}{tail}"


def _gather(facts: Mapping[str, str]) -> list[dict[str, str]]:
  """Returns the facts of each process, long values by their digests."""
  lines = (f"{_short(name)}\t{_short(value)}" for name, value in facts.items())
  own = np.frombuffer("\n".join(lines).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(len(own)))
  padded = np.zeros(sizes.max(), np.uint8)
  padded[: len(own)] = own
  rows = multihost_utils.process_allgather(padded)
  return [
    dict(
      line.split("\t") for line in row[:size].tobytes().decode().splitlines()
    )
    for row, size in zip(rows, sizes, strict=True)
  ]


def _short(text: str) -> str:
  """Returns a text, or its digest if it is long or has more than one line."""
  if len(text) <= _MAX_LENGTH and text.isprintable():
    return text
  return f"#{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"
