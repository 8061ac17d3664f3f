"""Turns a JSON schema into a regular expression, for `Regex`.

`outlines-core` writes the expression. It passes over keywords that an
expression cannot state, so schemas that have such are refused here: what
matches the expression is valid by the schema.
"""

import json
from collections.abc import Mapping
from typing import Any

from t5x_lite.decoding.regex import outlines_core

_NOTES = {
  "$schema", "$id", "$defs", "definitions", "title", "description", "default",
  "examples",
}  # fmt: skip
# What says which values there are; one of these, and what goes with it.
_KINDS = {
  "$ref": set(),
  "anyOf": set(),
  "const": {"type"},
  "enum": {"type"},
  "type": {
    "properties", "required", "additionalProperties", "items", "minItems",
    "maxItems", "minLength", "maxLength", "prefixItems",
  },
}  # fmt: skip
_TYPES = {
  "string": (str,), "integer": (int,), "number": (int, float),
  "boolean": (bool,), "null": (type(None),), "array": (list,),
  "object": (dict,),
}  # fmt: skip


def pattern(schema: Mapping[str, Any]) -> str:
  """Returns a regular expression of the JSON texts that a schema allows.

  Objects have their properties in the schema's order, and none but these where
  it has any; a space may stand where JSON allows white space. Objects and
  arrays of anything are a few levels deep.

  Raises:
    ValueError: the schema has a keyword that an expression cannot state, or
      refers to itself, or `outlines-core` is not installed.
  """
  _check(schema, "json_schema", schema, ("#",))
  library = outlines_core()
  try:
    return library.json_schema.build_regex_from_schema(json.dumps(schema))
  except ValueError as error:
    reason = str(error).splitlines()[0]
    raise ValueError(f"json_schema cannot be used: {reason:.120}") from None


def _check(schema, place, root, within):
  """Refuses a schema, or one within it, that would be read otherwise.

  Args:
    schema: the schema.
    place: its name, for messages.
    root: the whole of which it is a part.
    within: the references that led to it.
  """
  if not isinstance(schema, Mapping):
    raise ValueError(f"{place} ({schema!r:.40}) must be an object")
  kind = next((name for name in _KINDS if name in schema), None)
  if kind is None:
    raise ValueError(f"{place} needs one of {', '.join(sorted(_KINDS))}")
  known = _NOTES | {kind} | _KINDS[kind]
  if "prefixItems" in schema:
    known -= {"items", "minItems", "maxItems"}
  for name in schema:
    if name not in known:
      raise ValueError(
        f"{place}.{name} cannot be kept: beside {kind}, only "
        f"{', '.join(sorted(known - _NOTES - {kind})) or 'notes'} can stand; "
        "leave it out, or give a regex"
      )
  parts = {}
  for name in ("$defs", "definitions", "properties"):
    parts |= {f"{name}.{k}": part for k, part in schema.get(name, {}).items()}
  for name in ("anyOf", "prefixItems"):
    parts |= {f"{name}[{i}]": x for i, x in enumerate(schema.get(name, ()))}
  if "items" in schema:
    parts["items"] = schema["items"]
  if not isinstance(schema.get("additionalProperties", True), bool):
    parts["additionalProperties"] = schema["additionalProperties"]
  for name, part in parts.items():
    _check(part, f"{place}.{name}", root, within)
  if kind == "$ref":
    reference = schema["$ref"]
    if reference in within:
      raise ValueError(
        f"{place}.$ref ({reference!r}) is to what it is part of: an expression "
        "cannot repeat itself to any depth; write out the levels"
      )
    part = _referred(root, reference, place)
    _check(part, reference, root, (*within, reference))
  _check_values(schema, place)
  _check_names(schema, place)


def _referred(root, reference, place):
  """Returns the part of a schema that a reference, #/$defs/a, is to."""
  found, (start, *names) = root, str(reference).split("/")
  for name in names:
    found = found.get(name) if isinstance(found, Mapping) else None
  if start != "#" or found is None:
    raise ValueError(
      f"{place}.$ref ({reference!r:.40}) is not the place of a part of the "
      "schema, such as #/$defs/NAME"
    )
  return found


def _check_values(schema, place):
  if "type" in schema:
    types = schema["type"]
    types = [types] if isinstance(types, str) else types
    for one in types:
      if one not in _TYPES:
        raise ValueError(
          f"{place}.type ({one!r}) must be one of {', '.join(sorted(_TYPES))}"
        )
  else:
    types = _TYPES
  values = [schema["const"]] if "const" in schema else schema.get("enum")
  if values == []:
    raise ValueError(f"{place}.enum ([]) must have a value")
  for value in values or ():
    fitting = {name for name in _TYPES if type(value) in _TYPES[name]}
    if not fitting & set(types):
      raise ValueError(f"{place}: {value!r:.40} is not of type {types}")


def _check_names(schema, place):
  """Refuses names of properties that JSON writes otherwise, or that lack."""
  properties = schema.get("properties", {})
  for name in properties:
    if json.dumps(name, ensure_ascii=False) != f'"{name}"':
      raise ValueError(
        f"{place}.properties has {name!r}: a name may have no quote, backslash "
        "or control character"
      )
  for name in schema.get("required", ()):
    if name not in properties:
      raise ValueError(
        f"{place}.required has {name!r}, which is not one of its properties "
        f"({', '.join(properties) or 'none'}): add it there"
      )
