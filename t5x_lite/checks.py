"""Checks of settings where an object is built: one line shows the value.

A class states what its fields may be by their types, and checks them all at
once, before anything else reads them:

    @dataclasses.dataclass(frozen=True)
    class Window:
      size: checks.Count

      def __post_init__(self):
        checks.fields(self)

A float is finite and an int has 64 bits, whatever else their types say.
"""

import collections.abc
import dataclasses
import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple

# A value that is not known yet, and passes for one of any type.
UNKNOWN = object()

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_LISTS = (list, tuple, collections.abc.Sequence)
_MAPPINGS = (dict, collections.abc.Mapping)


class Range(NamedTuple):
  """The numbers from `least` to `most`.

  Attributes:
    least, most: the bounds.
    open_below, open_above: whether a bound itself is left out.
  """

  least: float
  most: float
  open_below: bool = False
  open_above: bool = False

  def refusal(self, value) -> str | None:
    """Returns what a number outside must be, or None for one inside."""
    low = value <= self.least if self.open_below else value < self.least
    high = value >= self.most if self.open_above else value > self.most
    if not low and not high and value == value:
      return None
    if self.most <= 1:
      left, right = "[("[self.open_below], "])"[self.open_above]
      return f"must be in {left}{self.least}, {self.most}{right}"
    if high:
      return f"must be at most {self.most}"
    return f"must be {'above' if self.open_below else 'at least'} {self.least}"


_FLOAT32 = 3.4028234e38
_BITS_32 = 2**31 - 1
_PLAIN_RANGES = {
  int: Range(-(2**63), 2**63 - 1),
  float: Range(-_FLOAT32, _FLOAT32),
}

# Sizes and counts; indices of an array are int32.
Count = Annotated[int, Range(1, _BITS_32)]
# Ten times the deepest published model.
Layers = Annotated[int, Range(1, 10_000)]
Whole = Annotated[int, Range(0, _BITS_32)]
# The next number is a seed too, of dropout.
Seed = Annotated[int, Range(-(2**63), 2**63 - 2)]
Fraction = Annotated[float, Range(0, 1)]
# A rate of dropout or decay, at which something is left.
Share = Annotated[float, Range(0, 1, open_above=True)]
Inside = Annotated[float, Range(0, 1, open_below=True, open_above=True)]
Positive = Annotated[float, Range(0, _FLOAT32, open_below=True)]
NotNegative = Annotated[float, Range(0, _FLOAT32)]


class Refusal(NamedTuple):
  """Says what is wrong with a value.

  Attributes:
    place: where in the value, such as "['inputs']"; "" for the value itself.
    value: what stands there, in a line.
    text: what it must be.
  """

  place: str
  value: str
  text: str


def fields(owner: Any):
  """Refuses fields of a dataclass or module that do not fit their types.

  Raises:
    ValueError: naming the field, its value and what it must be.
  """
  for name, kind in _kinds(type(owner)).items():
    if wrong := refusal(getattr(owner, name), kind):
      raise ValueError(
        f"{type(owner).__name__}.{name}{wrong.place} ({wrong.value}) "
        f"{wrong.text}"
      )


def one_of(owner: Any, name: str, allowed: Iterable[str | None]):
  """Refuses a field whose value is not one of those that it may have."""
  value, allowed = getattr(owner, name), tuple(allowed)
  if value not in allowed:
    raise ValueError(
      f"unknown {type(owner).__name__}.{name} {value!r}: use one of "
      f"{', '.join(map(str, allowed))}"
    )


@functools.cache
def _kinds(cls) -> dict[str, Any]:
  """Returns field -> type of a class, without those of every Linen module."""
  names = {f.name for f in dataclasses.fields(cls)} - {"parent", "name"}
  return {n: k for n, k in hints(cls).items() if n in names}


def hints(function) -> dict[str, Any]:
  """Returns parameter -> type of a function or class, {} if it has none."""
  try:
    return typing.get_type_hints(function, include_extras=True)
  except (NameError, TypeError):  # Of somebody else's code.
    return {}


def refusal(value: Any, kind: Any) -> Refusal | None:
  """Returns what is wrong with a value of a stated type, or None."""
  origin, arguments = typing.get_origin(kind), typing.get_args(kind)
  if value is UNKNOWN or kind is Any:
    return None
  if origin is Annotated:
    plain, bounds = arguments
    found = refusal(value, plain)
    if _is_of(value, plain, None) and (plain is int or not found):
      text = bounds.refusal(value)
      return text and Refusal("", _shown(value), text)
    return found
  if origin in (typing.Union, types.UnionType):
    return _refusal_of_union(value, kind, arguments)
  if origin is typing.Literal:
    if isinstance(value, _PLAIN) and value in arguments:
      return None
    return Refusal("", _shown(value), f"must be of type {named(kind)}")
  if origin in _LISTS and _is_list(value):
    return _refusal_of_list(value, kind, origin, arguments)
  if origin in _MAPPINGS and isinstance(value, collections.abc.Mapping):
    found = (
      (_place(key), refusal(one, of))
      for key, entry in value.items()
      for one, of in zip((key, entry), arguments, strict=True)
    )
    return _first(found)
  if not _is_of(value, kind, origin):
    return Refusal("", _shown(value), f"must be of type {named(kind)}")
  if text := kind in _PLAIN_RANGES and _PLAIN_RANGES[kind].refusal(value):
    text = "must be a finite number" if kind is float else text
    return Refusal("", _shown(value), text)
  return None


def _is_list(value) -> bool:
  is_text = isinstance(value, str | bytes)
  return isinstance(value, collections.abc.Sequence) and not is_text


def _is_of(value, kind, origin) -> bool:
  if kind is int:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
  if kind is float:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
  if origin is collections.abc.Callable:
    return callable(value)
  if origin is type:
    return isinstance(value, type)
  if getattr(kind, "_is_protocol", False):
    return not isinstance(value, (*_PLAIN, type)) and all(
      hasattr(value, name) for name in _members(kind)
    )
  if origin in _LISTS:
    return _is_list(value)
  kind = origin or kind
  return isinstance(value, kind) if isinstance(kind, type) else True


@functools.cache
def _members(protocol) -> set[str]:
  names = {n for n in vars(protocol) if n == "__call__" or n[0] != "_"}
  return names | set(inspect.get_annotations(protocol))


def _refusal_of_union(value, kind, arguments):
  found = [refusal(value, one) for one in arguments]
  if not all(found):
    return None
  # Of a value of the right type out of its range, this says more.
  whole = f"must be of type {named(kind)}"
  for one, of in zip(found, arguments, strict=True):
    if one.place or one.text != f"must be of type {named(of)}":
      ending = ", or None" if type(None) in arguments else ""
      return one._replace(text=one.text + ending)
  return Refusal("", _shown(value), whole)


def _refusal_of_list(value, kind, origin, arguments):
  kinds = arguments[:1] * len(value)
  if origin is tuple and arguments[-1] is not Ellipsis:
    kinds = arguments
    if len(kinds) != len(value):
      return Refusal("", _shown(value), f"must be of type {named(kind)}")
  return _first(
    (_place(i), refusal(one, of))
    for i, (one, of) in enumerate(zip(value, kinds, strict=True))
  )


def _first(found) -> Refusal | None:
  for place, one in found:
    if one:
      return one._replace(place=place + one.place)
  return None


def _place(key) -> str:
  return f"[{_shown(key)}]"


def _shown(value) -> str:
  """Returns a value in a line: modules and arrays are written in many."""
  if isinstance(value, (*_PLAIN, list, tuple, dict)):
    try:
      text = repr(value)
    except ValueError:  # More digits than Python writes.
      text = f"a number of {math.ceil(value.bit_length() * 0.302)} digits"
    if "\n" not in text:
      return text if len(text) <= 200 else f"{text[:200]}..."
  name = value.__name__ if isinstance(value, type) else type(value).__name__
  return name


def named(kind) -> str:
  """Returns how a message calls a type: "int | None", "Mapping[str, int]"."""
  origin, arguments = typing.get_origin(kind), typing.get_args(kind)
  if origin is Annotated:
    return named(arguments[0])
  if origin in (typing.Union, types.UnionType):
    return " | ".join(map(named, arguments))
  if origin is typing.Literal:
    return " | ".join(map(repr, arguments))
  if kind is type(None) or kind is Ellipsis:
    return "None" if kind is not Ellipsis else "..."
  if origin is not None and origin is not collections.abc.Callable:
    inside = ", ".join(map(named, arguments))
    return f"{origin.__name__}[{inside}]"
  return getattr(origin or kind, "__name__", str(kind))
