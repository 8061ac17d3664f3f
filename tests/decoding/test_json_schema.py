"""Texts that a schema's expression matches are JSON, valid by the schema."""

import json
import random
import re

import jsonschema
import pytest

from t5x_lite.decoding import Regex, json_schema
from t5x_lite.decoding.automata import START

BYTES = [bytes([byte]) for byte in range(256)]
PERSON = {
  "type": "object",
  "properties": {
    "name": {"type": "string", "minLength": 1, "maxLength": 5},
    "age": {"type": "integer"},
    "tags": {"$ref": "#/$defs/tags"},
  },
  "required": ["name"],
  "additionalProperties": False,
  "$defs": {"tags": {"type": "array", "items": {"enum": ["a.", 'q"\n', "é"]}}},
}


def texts(pattern, count):
  """Returns texts of random walks through an expression's automaton."""
  table = Regex(pattern=pattern, first=BYTES, later=BYTES).table()
  rng, found = random.Random(0), set()
  for _ in range(count):
    state, text = START, []
    while table.first[state] < table.first[state + 1]:
      if table.needed[state] == 0 and rng.random() < 0.3:
        break
      edges = range(table.first[state], table.first[state + 1])
      if len(text) > 40:  # Towards an end.
        needed = table.needed[state]
        edges = [e for e in edges if table.needed[table.state[e]] < needed]
        if not edges:
          break
      edge = rng.choice(edges)
      text.append(table.token[edge])
      state = table.state[edge]
    found.add(bytes(text).decode())
  return found


@pytest.mark.parametrize(
  "schema",
  [
    PERSON,
    {"type": "object", "additionalProperties": {"type": "number"}},
    {"type": "array"},
    {"type": ["string", "null"], "maxLength": 3},
    {"anyOf": [{"type": "integer"}, {"const": {"a": [1, "x"]}}]},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2,
     "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}]},
    {"enum": ["x", 1, None, 1.5, [1], {"a": 1}, "\\"], "title": "some"},
  ],
)  # fmt: skip
def test_what_matches_is_valid(schema):
  pattern = json_schema.pattern(schema)
  found = texts(pattern, 200)
  assert len(found) > 2
  for text in found:
    assert re.fullmatch(pattern, text)
    jsonschema.validate(
      json.loads(text), schema, jsonschema.Draft202012Validator
    )


@pytest.mark.parametrize(
  ("schema", "said"),
  [
    ([], r"json_schema \(\[\]\) must be an object"),
    ({}, "json_schema needs one of "),
    ({"type": "int"}, r"json_schema.type \('int'\) must be one of array, bool"),
    ({"type": "integer", "minimum": 3}, "json_schema.minimum cannot be kept"),
    ({"type": "string", "format": "date"}, "json_schema.format cannot be kept"),
    ({"type": "array", "items": {"pattern": "a", "type": "string"}},
     "json_schema.items.pattern cannot be kept"),
    ({"type": "array", "items": False}, r"items \(False\) must be an object"),
    ({"type": "array", "prefixItems": [], "minItems": 1}, "minItems cannot be"),
    ({"enum": []}, r"json_schema.enum \(\[\]\) must have a value"),
    ({"type": "string", "enum": [1]}, "1 is not of type "),
    ({"type": "object", "required": ["a"]}, "'a', which is not one of its"),
    ({"type": "object", "properties": {'"': {"type": "null"}}}, "may have no"),
    ({"type": "object", "properties": {"a": {"$ref": "#"}}}, "is part of"),
    ({"$ref": "#/$defs/a"}, r"json_schema.\$ref \('#/\$defs/a'\) is not the"),
  ],
)  # fmt: skip
def test_a_schema_that_an_expression_cannot_state_is_refused(schema, said):
  with pytest.raises(ValueError, match=said) as error:
    json_schema.pattern(schema)
  assert "\n" not in str(error.value)
