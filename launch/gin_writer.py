"""Writes an object as gin bindings that rebuild it.

Each object's scope is its path in the tree, so that objects of the same class
do not share bindings:

    stack.Stack.layer = @layer/stack.Layer()
    layer/stack.Layer.norm = @layer/norm/norms.RMSNorm()
    layer/norm/norms.RMSNorm.epsilon = 1e-05
"""

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

_HEADER = "from __gin__ import dynamic_registration"


def text(value: Any, *, header: bool = True) -> str:
  """Returns a gin file with all non-default fields of an object.

  Args:
    value: a dataclass or an unbound module, nested to any depth.
    header: whether to begin with gin's header line.
  """
  modules: set[str] = set()
  bindings = list(_bindings(value, "", modules))
  imports = [
    f"from {package} import {name}" if package else f"import {name}"
    for package, _, name in (m.rpartition(".") for m in sorted(modules))
  ]
  lines = [*imports, "", *bindings]
  return "\n".join([_HEADER, *lines] if header else lines) + "\n"


def _bindings(value, scope, modules) -> Iterator[str]:
  """Yields the bindings of an object and of the objects in it."""
  modules.add(_home(type(value)))
  below = []
  for field in dataclasses.fields(value):
    # Flax sets a module's parent and name.
    if not field.init or field.name in ("parent", "name"):
      continue
    part = getattr(value, field.name)
    # A part that is left out is none of gin's, and a binding of its class would
    # have no effect. The outermost object's, such as a Model's loss, are for
    # other files to choose.
    if _is_default(field, part) and not (scope and _is_object(part)):
      continue
    inner = "/".join(filter(None, [scope, field.name]))
    written = _written(part, inner, below)
    yield f"{name(value, scope)}.{field.name} = {written}"
  for part, inner in below:
    lines = list(_bindings(part, inner, modules))
    yield from ["", *lines] if lines else []


def _written(value, scope, below) -> str:
  """Returns a value in gin's syntax, and adds the objects in it to `below`."""
  if isinstance(value, list | tuple):
    parts = [_written(v, f"{scope}_{i}", below) for i, v in enumerate(value)]
    return f"[{', '.join(parts)}]"
  if _is_object(value):
    below.append((value, scope))
    return f"@{name(value, scope)}()"
  assert value is None or isinstance(value, bool | int | float | str), value
  return repr(value)


def _is_object(value) -> bool:
  return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _is_default(field, value) -> bool:
  if field.default_factory is not dataclasses.MISSING:
    return value == field.default_factory()
  return field.default is not dataclasses.MISSING and value == field.default


def name(value: Any, scope: str = "") -> str:
  """Returns gin's name for an object's class, in a scope."""
  module = _home(type(value)).rpartition(".")[2]
  plain = f"{module}.{type(value).__name__}"
  return f"{scope}/{plain}" if scope else plain


def _home(kind) -> str:
  """Returns the module to import a class from: its package if public there."""
  package = kind.__module__.rpartition(".")[0]
  public = getattr(sys.modules.get(package), "__all__", ())
  return package if kind.__name__ in public else kind.__module__
