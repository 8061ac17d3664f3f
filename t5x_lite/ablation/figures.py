"""Draws a study's figures, in colours that suit colour-blind readers."""

import io
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from t5x_lite.files import disk

# Okabe and Ito 2008, without black and yellow, which cannot be seen on a dark
# or a light background. When colours repeat, markers and dashes differ.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
_MARKS = "osD^vPX*"
_DASHES = ("-", "--", ":", "-.")
_PANELS = 2  # side by side
# Replaced by the page's own text colour, light or dark.
_INK = "#010203"
_STYLE = {
  "svg.hashsalt": "t5x_lite", "svg.fonttype": "none", "font.size": 9,
  "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK,
  "xtick.color": _INK, "ytick.color": _INK, "legend.frameon": False,
  "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip

Figures = dict[str, Figure]


def draw(found: Mapping[str, Any]) -> Figures:
  """Returns {name: figure} for all that a study's results contain."""
  if not found["cells"]:
    return {}
  with matplotlib.rc_context(_STYLE):
    figures = {"measures": _dots(found), "curves": _curves(found)}
    if len(found["axes"]) > 1:
      figures["grid"] = _heat_maps(found)
    if any(found["scaling"].values()):
      figures["scaling"] = _scaling(found)
  return figures


def svg(figure: Figure) -> str:
  """Returns a figure as SVG, in the page's own text colour."""
  buffer = io.StringIO()
  with matplotlib.rc_context(_STYLE):
    figure.savefig(
      buffer, format="svg", transparent=True, metadata={"Date": None}
    )
  text = buffer.getvalue()
  text = text[text.index("<svg") :].replace(_INK, "currentColor")
  text = re.sub(r"^ +", "", text, flags=re.MULTILINE)
  # Without a fixed size, it is as wide as the page.
  return re.sub(
    r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", text, count=1
  ).replace(re.search(r'height="[^"]*pt"', text)[0], "", 1)


def png(figure: Figure, path: pathlib.Path) -> None:
  """Writes a figure as PNG, on white."""
  with matplotlib.rc_context(_STYLE), disk.partial(path) as temporary:
    figure.savefig(temporary, format="png", dpi=130, facecolor="white")


def _look(number: int) -> dict[str, Any]:
  return {
    "color": _COLOURS[number % len(_COLOURS)],
    "linestyle": _DASHES[number // len(_COLOURS) % len(_DASHES)],
    "marker": _MARKS[number % len(_MARKS)],
  }


def _compared(found) -> dict[str, dict]:
  """Returns the measures that at least two cells have, or all if one cell.

  Without the measures of single sources, which only the tables show.
  """
  fewest = min(2, len(found["cells"]))
  return {
    kind: meaning
    for kind, meaning in found["measures"].items()
    if "whole" not in meaning
    and sum(kind in c["measures"] for c in found["cells"].values()) >= fewest
  }


def _dots(found) -> Figure:
  """Draws means with intervals, one panel per measure, two panels per row."""
  cells, measures = found["cells"], _compared(found)
  rows = -(-len(measures) // _PANELS)
  figure = Figure(
    figsize=(8, rows * (1.1 + 0.3 * len(cells))), layout="constrained"
  )
  panels = figure.subplots(rows, _PANELS, sharey=True, squeeze=False).ravel()
  for ax in panels[len(measures) :]:
    ax.set_visible(False)
  for ax, (kind, meaning) in zip(panels, measures.items(), strict=False):
    for row, cell in enumerate(cells.values()):
      if kind in cell["measures"]:
        one, look = cell["measures"][kind], _look(row)
        ax.plot(one["interval"], [row, row], color=look["color"], linewidth=2)
        ax.plot(one["mean"], row, look["marker"], color=look["color"])
    ax.set_title(kind.replace("_", " "), loc="left")
    ax.set_xlabel(f"{meaning['unit']}, {meaning['better']} is better")
    ax.grid(axis="x", alpha=0.25)
  panels[0].set_yticks(range(len(cells)), cells)
  panels[0].set_ylim(len(cells) - 0.5, -0.5)
  return figure


def _curves(found) -> Figure:
  """Draws each cell's training loss against FLOPs and tokens."""
  rows = -(-len(found["cells"]) // 2)
  figure = Figure(figsize=(8, 3.1 + 0.2 * rows), layout="constrained")
  axes = figure.subplots(1, 2, sharey=True)
  for ax, unit in zip(axes, ("flops", "tokens"), strict=True):
    for number, (name, cell) in enumerate(found["cells"].items()):
      look = _look(number) | {"markersize": 3, "linewidth": 1.2}
      points = cell["curve"]
      ax.plot(
        [p[unit] for p in points], [p["loss"] for p in points],
        label=name, **look,
      )  # fmt: skip
    ax.set_xlabel({"flops": "training FLOPs", "tokens": "tokens"}[unit])
    ax.grid(alpha=0.25)
  axes[0].set_ylabel("own training loss, nats per token")
  figure.legend(
    *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2
  )
  return figure


def _heat_maps(found) -> Figure:
  """Draws heat maps over the first two axes, averaged over the others."""
  (down, rows), (across, columns), *_ = found["axes"].items()
  measures = _compared(found)
  count = -(-len(measures) // _PANELS)
  figure = Figure(
    figsize=(8, count * (1.4 + 0.45 * len(rows))), layout="constrained"
  )
  panels = figure.subplots(count, _PANELS, squeeze=False).ravel()
  for ax in panels[len(measures) :]:
    ax.set_visible(False)
  for place, (kind, meaning) in enumerate(measures.items()):
    grid = np.full((len(rows), len(columns)), np.nan)
    for i, row in enumerate(rows):
      for j, column in enumerate(columns):
        values = [
          cell["measures"][kind]["mean"]
          for cell in found["cells"].values()
          if cell["choices"][down] == row and cell["choices"][across] == column
          and kind in cell["measures"]
        ]  # fmt: skip
        if values:
          grid[i, j] = np.mean(values)
    lower = meaning["better"] == "lower"
    ax = panels[place]
    _heat_map(ax, grid, rows if place % _PANELS == 0 else None, columns, lower)
    ax.set_title(f"{kind.replace('_', ' ')}, {meaning['unit']} (darker is "
                 "better)", loc="left", fontsize=8)  # fmt: skip
  return figure


def _heat_map(ax, grid, rows, columns, lower):
  ax.imshow(grid, cmap="cividis" if lower else "cividis_r", aspect="auto")
  low, high = np.nanmin(grid), np.nanmax(grid)
  for (i, j), value in np.ndenumerate(grid):
    shade = (value - low) / max(high - low, 1e-9)
    is_dark = shade < 0.5 if lower else shade > 0.5
    text = "" if np.isnan(value) else f"{value:.3f}"
    ax.text(j, i, text, ha="center", va="center",
            color="white" if is_dark else "black")  # fmt: skip
  ax.set_xticks(range(len(columns)), [c.replace("_", "\n") for c in columns],
                fontsize=7)  # fmt: skip
  ax.set_yticks(range(grid.shape[0]), rows or [""] * grid.shape[0])
  ax.spines[:].set_visible(False)


def _scaling(found) -> Figure:
  kinds = [kind for kind, laws in found["scaling"].items() if laws]
  figure = Figure(figsize=(8, 3.4), layout="constrained")
  axes = figure.subplots(1, len(kinds), squeeze=False)[0]
  for ax, kind in zip(axes, kinds, strict=True):
    for number, (name, law) in enumerate(found["scaling"][kind].items()):
      flops, values = np.array(law["points"]).T
      x = np.geomspace(flops.min(), flops.max(), 50)
      e, a, power = (law[key][0] for key in ("E", "A", "a"))
      look = _look(number)
      ax.plot(flops, values, look["marker"], color=look["color"], label=name)
      ax.plot(x, e + a * (x / flops.min()) ** -power, look["linestyle"],
              color=look["color"])  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlabel("training FLOPs")
    ax.set_ylabel(f"{kind}, bits per byte")
    ax.legend(fontsize=7)
  return figure
