"""Expected values in files, renewed on purpose by UPDATE_GOLDEN=1."""

import json
import os
import pathlib

import numpy as np

_FOLDER = pathlib.Path(__file__).parent


def check(name: str, value, *, atol: float | None = None):
  """Compares a JSON-like value to the file `name`.json.

  Args:
    name: of the file beside this one.
    value: what the code gives now.
    atol: for lists of numbers; None means equality.
  """
  path = _FOLDER / f"{name}.json"
  if os.environ.get("UPDATE_GOLDEN") == "1":
    path.write_text(json.dumps(value, indent=1) + "\n")
  expected = json.loads(path.read_text())
  if atol is None:
    assert value == expected, f"{path.name}: UPDATE_GOLDEN=1 renews it"
  else:
    np.testing.assert_allclose(value, expected, rtol=0, atol=atol)


def check_text(name: str, text: str):
  """Compares a text to the file `name`.txt."""
  path = _FOLDER / f"{name}.txt"
  if os.environ.get("UPDATE_GOLDEN") == "1":
    path.write_text(text)
  assert text == path.read_text(), f"{path.name}: UPDATE_GOLDEN=1 renews it"
