"""Checks that the pages that name tests name tests that exist."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["tests/KINDS.md", "docs/reliability.md"])
def test_every_row_has_its_test(page):
  text = (ROOT / page).read_text()
  rows = re.findall(r"^\|.*\| (\S+)::(\w+) \|$", text, re.MULTILINE)
  assert len(rows) == text.count("::") > 15
  for path, name in rows:
    code = (ROOT / path).read_text()
    assert re.search(rf"^def {name}\(", code, re.MULTILINE), f"{path}::{name}"
