"""Writes the table of families from what the parity tests measured.

pytest tests/interop --families-table=docs/families.md
"""

import collections
import pathlib

from tests.interop.test_published import PUBLISHED

_MEASURES = ("logits", "gradients")
_PRESETS = pathlib.Path(__file__).parents[2] / "docs" / "presets.md"


def pytest_addoption(parser):
  parser.addoption(
    "--families-table", help="Markdown file for the measured differences."
  )


def pytest_configure(config):
  path = config.getoption("--families-table")
  # With several processes (pytest-xdist), the one that hears of all tests.
  if path and not hasattr(config, "workerinput"):
    config.pluginmanager.register(_Table(pathlib.Path(path)))


class _Table:
  """Gathers the properties that tests record, by family."""

  def __init__(self, path):
    self._path = path
    self._rows = collections.defaultdict(dict)

  def pytest_runtest_logreport(self, report):
    found = dict(report.user_properties)
    if report.when != "call" or "family" not in found or not report.passed:
      return
    row = self._rows[found["family"]]
    row.setdefault("classes", {})[found["class"]] = None
    for name in _MEASURES:
      if name in found:
        row[name] = max(row.get(name, 0.0), found[name])

  def pytest_sessionfinish(self):
    lines = [
      "# Families, against `transformers`",
      "",
      "Random weights at odd sizes, float32 on a CPU: the largest absolute",
      "difference of logits, and the largest difference of gradients, relative",
      "to the largest of each parameter; beside them the parameters of the",
      "largest preset that is compared with a published configuration.",
      "docs/presets.md has the counts of all. Made by `pytest tests/interop",
      "--families-table=docs/families.md`.",
      "",
      "| family | classes | logits | gradients | preset | published | ours |",
      "|---|---|---|---|---|---|---|",
    ]
    counts = _counts()
    for family, row in sorted(self._rows.items()):
      classes = ", ".join(sorted(row["classes"]))
      cells = [f"{row[n]:.1e}" if n in row else "" for n in _MEASURES]
      lines.append(
        "| " + " | ".join([family, classes, *cells, *counts[family]]) + " |"
      )
    self._path.write_text("\n".join(lines) + "\n")


def _counts():
  """Returns family -> preset, published and our number of parameters."""
  rows = [line.split("|") for line in _PRESETS.read_text().splitlines()]
  known = {
    row[1].strip(): [cell.strip() for cell in row[1:4]]
    for row in rows
    if len(row) > 4
  }
  # The published configuration bounds experts by another rule than the paper.
  presets = {"switch_transformers": [known["switch/base_8"]]}
  for preset, (family, _) in PUBLISHED.items():
    presets.setdefault(family, []).append(known[preset])
  return {
    family: max(found, key=lambda cells: int(cells[2].replace(",", "")))
    for family, found in presets.items()
  }
