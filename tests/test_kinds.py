"""Checks that tests/KINDS.md names tests that exist."""

import pathlib
import re

TESTS = pathlib.Path(__file__).parent


def test_every_kind_has_its_test():
  text = (TESTS / "KINDS.md").read_text()
  rows = re.findall(r"^\|.*\| (\S+)::(\w+) \|$", text, re.MULTILINE)
  assert len(rows) == text.count("\n| ") - text.count("\n| kind |") > 30
  for path, name in rows:
    code = (TESTS.parent / path).read_text()
    assert re.search(rf"^def {name}\(", code, re.MULTILINE), f"{path}::{name}"
