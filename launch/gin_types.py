"""Checks that configured values have the types of their parameters.

Gin gives any value to any parameter. A string in place of a number would fail
inside, in code that does not know the parameter's name.
"""

import collections.abc
import types
import typing

import gin

from launch.gin_errors import ConfigError

_NUMBERS = {int: int, float: (int, float)}
_LISTS = (list, tuple, collections.abc.Sequence)
_MAPPINGS = (dict, collections.abc.Mapping)


def check():
  """Checks every binding of the configuration that is loaded.

  Raises:
    ConfigError: naming the parameter, its value and its type.
  """
  for (scope, selector), bindings in gin.config._CONFIG.items():
    function = gin.config._REGISTRY[selector].wrapped
    types_of = _types_of(function)
    for name, value in bindings.items():
      if name in types_of and not _fits(value, types_of[name]):
        module = function.__module__.rpartition(".")[2]
        key = f"{scope}/" if scope else ""
        key += f"{module}.{function.__qualname__}.{name}"
        raise ConfigError(
          f"{key} is {_resolved(value)!r}, but must be of type "
          f"{_named(types_of[name])}: --gin.{key}=VALUE"
        )


def _types_of(function) -> dict:
  try:
    return typing.get_type_hints(function)
  except (NameError, TypeError):  # Of somebody else's code.
    return {}


def _resolved(value):
  """Returns a macro's value, where it has one; anything else as it is."""
  while isinstance(value, gin.config.ConfigurableReference):
    key = value.config_key
    bindings = gin.config._CONFIG.get(key, {})
    if key[1] != "gin.macro" or "value" not in bindings:
      return value
    value = bindings["value"]
  return value


def _fits(value, kind) -> bool:
  """Tells whether a value is of a type; true of all that are not plain."""
  value = _resolved(value)
  if isinstance(value, gin.config.ConfigurableReference):
    return True
  origin, arguments = typing.get_origin(kind), typing.get_args(kind)
  if origin in (typing.Union, types.UnionType):
    return any(_fits(value, one) for one in arguments)
  if kind is type(None):
    return value is None
  if kind in (bool, str):
    return isinstance(value, kind)
  if kind in _NUMBERS:
    return isinstance(value, _NUMBERS[kind]) and not isinstance(value, bool)
  if origin in _LISTS:
    return isinstance(value, list | tuple)
  if origin in _MAPPINGS and isinstance(value, dict):
    return all(_fits(one, arguments[1]) for one in value.values())
  return origin not in _MAPPINGS


def _named(kind) -> str:
  return kind.__name__ if isinstance(kind, type) else str(kind)
