"""Writes a study's report: one HTML page, a CSV table and figures."""

import csv
import io
import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2

from t5x_lite.ablation import figures
from t5x_lite.files import disk

_FOLDER = pathlib.Path(__file__).parent
_TEMPLATE = "report.html.jinja"


def write(found: Mapping[str, Any], folder: pathlib.Path) -> None:
  """Writes report.html, results.csv and figures/*.png to a directory.

  The page needs no network and no other file. Each number on it is read from
  `found`, at the path in its element's "data-path".
  """
  folder = pathlib.Path(folder)
  drawn = figures.draw(found)
  disk.write_text(folder / "report.html", html(found, drawn))
  disk.write_text(folder / "results.csv", _csv(found))
  (folder / "figures").mkdir(exist_ok=True)
  for name, figure in drawn.items():
    figures.png(figure, folder / "figures" / f"{name}.png")


def html(found: Mapping[str, Any], drawn: figures.Figures) -> str:
  """Returns the report as an HTML page."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.globals["look_up"] = lambda path: look_up(found, path)
  environment.filters |= {"shown": shown, "key": key}
  return environment.get_template(_TEMPLATE).render(
    found=found,
    figures={name: figures.svg(figure) for name, figure in drawn.items()},
  )


def key(name: str) -> str:
  """Returns a name escaped for a path, as in JSON Pointer (RFC 6901)."""
  return name.replace("~", "~0").replace("/", "~1")


def look_up(found: Any, path: str) -> Any:
  """Returns the value at a path such as "cells/causal/totals/flops"."""
  for part in path.split("/"):
    name = part.replace("~1", "/").replace("~0", "~")
    found = found[int(name)] if isinstance(found, list) else found[name]
  return found


def shown(value: float | None, form: str) -> str:
  """Formats a number by a format, or with SI prefixes if that is "unit"."""
  if value is None:
    return "–"
  if form != "unit":
    return format(value, form)
  for prefix in ("", " k", " M", " G", " T", " P", " E"):
    if abs(value) < 999.5 or prefix == " E":
      return f"{value:.3g}{prefix}"
    value /= 1000
  raise AssertionError(value)


def _csv(found) -> str:
  """Returns a table with one row per cell, seed and measure."""
  text = io.StringIO()
  rows = csv.writer(text)
  rows.writerow([*found["axes"], "seed", "measure", "unit", "value"])
  for cell in found["cells"].values():
    for kind, one in cell["measures"].items():
      for seed, value in zip(cell["seeds_done"], one["by_seed"], strict=True):
        unit = found["measures"][kind]["unit"]
        rows.writerow([*cell["choices"].values(), seed, kind, unit, value])
  return text.getvalue()
