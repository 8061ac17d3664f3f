"""Reads traced programs (jaxprs); all code that depends on their format.

The names of an equation's parameters change between versions of JAX (a scan's
`num_carry` became part of `ft_out` in 0.11). So shapes of variables are used
instead of parameters where possible.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

Program = core.Jaxpr


class Unreadable(Exception):
  """Raised for a program in an unknown format, of another version of JAX."""


@contextlib.contextmanager
def reading() -> Iterator[None]:
  """Turns errors in reading a program into Unreadable."""
  try:
    yield
  except (
    AttributeError, IndexError, KeyError, TypeError, ValueError
  ) as error:  # fmt: skip
    raise Unreadable(f"{type(error).__name__}: {error}") from error


def trace(function: Callable, *args) -> Program:
  """Traces a function of arrays or shapes; returns its program."""
  return jax.make_jaxpr(function)(*args).jaxpr


def inner(eqn) -> Iterator[tuple[Program, int]]:
  """Yields the programs inside an equation, and how often each one runs."""
  times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
  for value in jax.tree.leaves(eqn.params, is_leaf=_is_program):
    if _is_program(value):
      # Up to JAX 0.10, most of them are ClosedJaxprs.
      closed = isinstance(value, core.ClosedJaxpr)
      yield value.jaxpr if closed else value, times


def _is_program(value: Any) -> bool:
  return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def scope(eqn) -> list[str]:
  """Lists the names of the modules and methods around an equation."""
  return str(eqn.source_info.name_stack).split("/")


def matmul_flops(eqn) -> int:
  """Returns the FLOPs of an equation if it is a matmul, else 0."""
  if eqn.primitive.name != "dot_general":
    return 0
  (contracted, _), _ = eqn.params["dimension_numbers"]
  shape = eqn.invars[0].aval.shape
  summed = math.prod(shape[i] for i in contracted)
  return 2 * math.prod(eqn.outvars[0].aval.shape) * summed


@dataclasses.dataclass(frozen=True)
class Scan:
  """Describes a loop whose body runs once for each slice of its inputs.

  Attributes:
    body: the program of one step.
    length: the number of steps.
    sliced: the body's inputs that are slices. (Others are constants, or
      carried from step to step.)
    stacked: maps each stacked output of the loop to the body's output. (Other
      outputs are carried.)
  """

  body: Program
  length: int
  sliced: tuple
  stacked: dict


def scans(program: Program) -> list[Scan]:
  """Lists the scans of a program, except those inside other equations."""
  return [_scan(e) for e in program.eqns if e.primitive.name == "scan"]


def _scan(eqn) -> Scan:
  ((body, length),) = inner(eqn)
  return Scan(
    body=body,
    length=length,
    sliced=tuple(
      inside
      for outside, inside in zip(eqn.invars, body.invars, strict=True)
      if _has_steps(outside, inside, length)
    ),
    stacked={
      outside: inside
      for outside, inside in zip(eqn.outvars, body.outvars, strict=True)
      if _has_steps(outside, inside, length)
    },
  )


def _has_steps(outside, inside, length) -> bool:
  """Returns whether a variable's first axis is the steps of a loop."""
  whole, step = outside.aval.shape, inside.aval.shape
  if whole not in (step, (length, *step)):
    raise ValueError(f"{whole} outside a scan of {length} steps, {step} inside")
  return whole != step
