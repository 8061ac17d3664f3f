"""Writes the table of families from what the parity tests measured.

pytest tests/interop --families-table=docs/families.md
"""

import collections
import pathlib

_MEASURES = ("logits", "gradients")


def pytest_addoption(parser):
  parser.addoption(
    "--families-table", help="Markdown file for the measured differences."
  )


def pytest_configure(config):
  if path := config.getoption("--families-table"):
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
      "to the largest of each parameter. docs/presets.md has the counts of",
      "parameters. Made by `pytest tests/interop",
      "--families-table=docs/families.md`.",
      "",
      "| family | classes | logits | gradients |",
      "|---|---|---|---|",
    ]
    for family, row in sorted(self._rows.items()):
      classes = ", ".join(sorted(row["classes"]))
      cells = [f"{row[n]:.1e}" if n in row else "" for n in _MEASURES]
      lines.append(f"| {family} | {classes} | {' | '.join(cells)} |")
    self._path.write_text("\n".join(lines) + "\n")
